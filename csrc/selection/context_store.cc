#include "selection/context_store.h"

#include <algorithm>
#include <new>

#include "base/hash.h"

namespace clipper {
namespace {

void copy(PolicyState from, PolicyState to) noexcept {
  for (std::size_t i = 0; i < from.size(); ++i) {
    to[i].store(from[i].load(std::memory_order_relaxed), std::memory_order_relaxed);
  }
}

/// The state of one context more, or again; false: no slot for it, or no memory.
bool keep(ContextSlots& slots, std::uint64_t context, PolicyState state) noexcept {
  try {
    ContextSlot* slot = slots.find(context);
    if (slot == nullptr) slot = slots.add(context);
    if (slot == nullptr) return false;
    copy(state, slots.state(*slot));
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

bool give_back(ContextSlots& slots, std::uint64_t context, PolicyState state) noexcept {
  ContextSlot* slot = slots.find(context);
  if (slot == nullptr) return false;
  copy(slots.state(*slot), state);
  slots.remove(context);
  return true;
}

}  // namespace

// ---- in memory ----------------------------------------------------------------------------------

MemoryContextStore::MemoryContextStore(std::size_t words, std::size_t max_bytes) {
  const std::size_t shards = max_bytes < kShards * 4096 ? 1 : kShards;
  const std::uint32_t most = std::max(ContextSlots::fit(words, max_bytes / shards), 1U);
  for (std::size_t i = 0; i < shards; ++i) shards_.push_back(std::make_unique<Shard>(words, most));
}

MemoryContextStore::Shard& MemoryContextStore::shard_of(std::uint64_t context) noexcept {
  // Bits that neither the shards of the table nor the index of the slots go by.
  return *shards_[(mix_bits(context) >> 40) % shards_.size()];
}

ContextLoad MemoryContextStore::load(std::uint64_t context, PolicyState state) noexcept {
  Shard& shard = shard_of(context);
  const std::scoped_lock lock(shard.mutex);
  return give_back(shard.slots, context, state) ? ContextLoad::kReturned : ContextLoad::kAbsent;
}

bool MemoryContextStore::save(std::uint64_t context, PolicyState state) noexcept {
  Shard& shard = shard_of(context);
  const std::scoped_lock lock(shard.mutex);
  if (keep(shard.slots, context, state)) return true;
  if (shard.slots.size() == 0) return false;
  forget_one(shard);  // at the bound, or there is no memory: the slot is there in both cases
  return keep(shard.slots, context, state);
}

void MemoryContextStore::forget_one(Shard& shard) noexcept {
  for (;;) {
    const ContextSlot& slot = shard.slots.at(shard.oldest);
    shard.oldest = (shard.oldest + 1) % shard.slots.made();
    if (!slot.used) continue;
    ++shard.forgotten;
    return shard.slots.remove(slot.context);
  }
}

std::size_t MemoryContextStore::held() noexcept {
  std::size_t sum = 0;
  for (const auto& shard : shards_) {
    const std::scoped_lock lock(shard->mutex);
    sum += shard->slots.size();
  }
  return sum;
}

std::size_t MemoryContextStore::bytes() noexcept {
  std::size_t sum = shards_.size() * sizeof(Shard);
  for (const auto& shard : shards_) {
    const std::scoped_lock lock(shard->mutex);
    sum += shard->slots.bytes();
  }
  return sum;
}

std::uint64_t MemoryContextStore::forgotten() noexcept {
  std::uint64_t sum = 0;
  for (const auto& shard : shards_) {
    const std::scoped_lock lock(shard->mutex);
    sum += shard->forgotten;
  }
  return sum;
}

// ---- drained by somebody else -------------------------------------------------------------------

void ContextBatch::append(std::uint64_t context, PolicyState state) {
  // First all that may throw.
  if (numbers.size() + state.size() > numbers.capacity()) {
    numbers.reserve(std::max(numbers.size() + state.size(), 2 * numbers.capacity()));
  }
  contexts.push_back(context);
  for (const std::atomic<double>& number : state) {
    numbers.push_back(number.load(std::memory_order_relaxed));
  }
}

DrainedContextStore::DrainedContextStore(std::size_t words, std::uint32_t max_spilled,
                                         EventFd* doorbell)
    : max_spilled_(max_spilled),
      own_doorbell_(doorbell == nullptr ? std::make_unique<EventFd>() : nullptr),
      doorbell_(doorbell == nullptr ? own_doorbell_.get() : doorbell),
      spilled_(words, max_spilled + kSlack) {}

void DrainedContextStore::hold(bool holds) noexcept {
  const std::scoped_lock lock(mutex_);
  holds_ = holds;
}

ContextLoad DrainedContextStore::load(std::uint64_t context, PolicyState state) noexcept {
  {
    const std::scoped_lock lock(mutex_);
    if (!holds_ && give_back(spilled_, context, state)) return ContextLoad::kReturned;
    try {
      wanted_.push_back(context);
    } catch (const std::bad_alloc&) {
      return ContextLoad::kRefused;
    }
    if (wanted_.size() > 1) return ContextLoad::kLater;
  }
  doorbell_->signal();
  return ContextLoad::kLater;
}

bool DrainedContextStore::has_room() noexcept {
  const std::scoped_lock lock(mutex_);
  return spilled_.size() < max_spilled_;
}

bool DrainedContextStore::save(std::uint64_t context, PolicyState state) noexcept {
  {
    const std::scoped_lock lock(mutex_);
    if (!keep(spilled_, context, state)) return false;
    if (spilled_.size() > 1) return true;
  }
  doorbell_->signal();
  return true;
}

std::size_t DrainedContextStore::held() noexcept {
  const std::scoped_lock lock(mutex_);
  return spilled_.size();
}

std::size_t DrainedContextStore::bytes() noexcept {
  const std::scoped_lock lock(mutex_);
  return spilled_.bytes() + wanted_.capacity() * sizeof(std::uint64_t);
}

void DrainedContextStore::take_spilled(ContextBatch& batch, std::size_t most) {
  const std::scoped_lock lock(mutex_);
  for (std::uint32_t i = 0; i < spilled_.made() && spilled_.size() > 0 && most > 0; ++i) {
    ContextSlot& slot = spilled_.at(i);
    if (!slot.used) continue;
    batch.append(slot.context, spilled_.state(slot));
    spilled_.remove(slot.context);
    --most;
  }
}

void DrainedContextStore::take_wanted(std::vector<std::uint64_t>& contexts, std::size_t most) {
  const std::scoped_lock lock(mutex_);
  const auto taken = static_cast<std::ptrdiff_t>(std::min(most, wanted_.size()));
  contexts.insert(contexts.end(), wanted_.begin(), wanted_.begin() + taken);
  wanted_.erase(wanted_.begin(), wanted_.begin() + taken);
}

}  // namespace clipper
