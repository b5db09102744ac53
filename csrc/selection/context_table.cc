#include "selection/context_table.h"

#include <algorithm>
#include <bit>
#include <new>
#include <string>

#include "base/errors.h"
#include "base/hash.h"

namespace clipper {

ContextTable::ContextTable(const Policy& policy, std::uint16_t models, std::size_t max_bytes)
    : ContextTable(
          policy, models, {max_bytes - max_bytes / 2},
          policy.state_words(models) == 0
              ? nullptr
              : std::make_unique<MemoryContextStore>(policy.state_words(models), max_bytes / 2)) {}

ContextTable::ContextTable(const Policy& policy, std::uint16_t models,
                           const ContextOptions& options, std::unique_ptr<ContextStore> store)
    : policy_(policy),
      words_(policy.state_words(models)),
      watches_(policy.watches()),
      own_(new std::atomic<double>[words_]),
      store_(std::move(store)) {
  policy.begin(own());
  if (words_ != 0) make_shards(options);
}

void ContextTable::make_shards(const ContextOptions& options) {
  constexpr std::uint32_t kFewest = 16;  // contexts that a shard should hold
  max_noted_bytes_ = store_->answers_later() ? options.max_bytes / 8 : 0;
  const std::size_t bytes = options.max_bytes - max_noted_bytes_;
  std::size_t count = std::bit_floor(std::max<std::size_t>(options.shards, 1));
  const auto most = [&] {
    const std::size_t each = bytes / count;
    return each < sizeof(Shard) ? 0 : ContextSlots::fit(words_, each - sizeof(Shard));
  };
  while (count > 1 && most() < kFewest) count /= 2;
  if (most() == 0) {
    throw Error(ErrorCode::kInvalidArgument, std::to_string(options.max_bytes) +
                                                 " bytes hold no context: one has " +
                                                 std::to_string(words_) + " numbers; give more");
  }
  for (std::size_t i = 0; i < count; ++i) {
    shards_.push_back(std::make_unique<Shard>(words_, most()));
  }
}

ContextTable::Shard& ContextTable::shard_of(std::uint64_t context) noexcept {
  return *shards_[(mix_bits(context) >> 56) & (shards_.size() - 1)];
}

// ---- queries ------------------------------------------------------------------------------------

ContextPin ContextTable::pin(std::uint64_t context) noexcept {
  if (words_ == 0) return ContextPin(own());
  Shard& shard = shard_of(context);
  const std::scoped_lock lock(shard.mutex);
  ContextSlot* slot = resident(shard, context);
  if (slot == nullptr) {
    ++shard.counts.served_by_own;
    return ContextPin(own());
  }
  if (watches_) slot->changed = true;
  return hold(shard, *slot);
}

ContextPin ContextTable::look(std::uint64_t context) noexcept {
  if (words_ == 0) return ContextPin(own());
  Shard& shard = shard_of(context);
  const std::scoped_lock lock(shard.mutex);
  if (ContextSlot* slot = shard.slots.find(context)) return hold(shard, *slot);
  if (shard.waiting.contains(context)) return ContextPin(own());
  ContextSlot* slot = add(shard, context);
  if (slot == nullptr) return ContextPin(own());
  const ContextLoad loaded = load(shard, context, shard.slots.state(*slot));
  if (loaded == ContextLoad::kLoaded || loaded == ContextLoad::kReturned) {
    slot->changed = loaded == ContextLoad::kReturned;
    return hold(shard, *slot);
  }
  if (loaded == ContextLoad::kAbsent) --shard.counts.begun;
  shard.slots.remove(context);
  return ContextPin(own());
}

ContextPin ContextTable::hold(Shard& shard, ContextSlot& slot) const noexcept {
  slot.referenced = true;
  slot.pins.fetch_add(1, std::memory_order_relaxed);  // the shard's lock orders it with evictions
  return ContextPin(shard.slots.state(slot), &slot.pins);
}

/// The slot of a context that is in memory, or can be now.
ContextSlot* ContextTable::resident(Shard& shard, std::uint64_t context) noexcept {
  if (ContextSlot* slot = shard.slots.find(context)) return slot;
  if (!shard.waiting.empty() && shard.waiting.contains(context)) return nullptr;
  return fetch(shard, context);
}

ContextSlot* ContextTable::fetch(Shard& shard, std::uint64_t context) noexcept {
  ContextSlot* slot = add(shard, context);
  if (slot == nullptr) return nullptr;
  const ContextLoad loaded = load(shard, context, shard.slots.state(*slot));
  if (loaded == ContextLoad::kLater || loaded == ContextLoad::kRefused) {
    shard.slots.remove(context);
    return nullptr;
  }
  slot->changed = loaded == ContextLoad::kReturned;
  return slot;
}

/// Asks the store, and sees to it that what comes later is waited for.
ContextLoad ContextTable::load(Shard& shard, std::uint64_t context, PolicyState state) noexcept {
  const bool may_wait = store_->answers_later();
  if (may_wait) {
    if (!charge(kWaitingBytes)) return ContextLoad::kRefused;
    try {
      shard.waiting.try_emplace(context);
    } catch (const std::bad_alloc&) {
      noted_bytes_.fetch_sub(kWaitingBytes, std::memory_order_relaxed);
      return ContextLoad::kRefused;
    }
  }
  const ContextLoad loaded = store_->load(context, state);
  if (may_wait && loaded != ContextLoad::kLater) forget_waiting(shard, context);
  if (loaded == ContextLoad::kLoaded || loaded == ContextLoad::kReturned) ++shard.counts.loaded;
  if (loaded == ContextLoad::kAbsent) {
    begin(state);
    ++shard.counts.begun;
  }
  return loaded;
}

void ContextTable::begin(PolicyState state) noexcept {
  for (std::size_t i = 0; i < words_; ++i) {
    state[i].store(own_[i].load(std::memory_order_relaxed), std::memory_order_relaxed);
  }
}

/// A slot for a context that is not in memory; nullptr: all are in use, or cannot be saved now.
ContextSlot* ContextTable::add(Shard& shard, std::uint64_t context) noexcept {
  try {
    ContextSlot* slot = shard.slots.add(context);
    if (slot != nullptr || !evict_one(shard)) return slot;
    return shard.slots.add(context);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

/// CLOCK: the first one from the hand on that nobody has asked for since the hand came by.
bool ContextTable::evict_one(Shard& shard) noexcept {
  const std::uint32_t made = shard.slots.made();
  for (std::uint64_t step = 0; step < 2 * std::uint64_t{made}; ++step) {
    ContextSlot& slot = shard.slots.at(shard.hand);
    shard.hand = shard.hand + 1 == made ? 0 : shard.hand + 1;
    // Pairs with the release of ContextPin: nobody who could learn has the state any more.
    if (!slot.used || slot.pins.load(std::memory_order_acquire) != 0) continue;
    if (std::exchange(slot.referenced, false)) continue;
    if (slot.changed) {
      if (!store_->has_room() || !store_->save(slot.context, shard.slots.state(slot))) return false;
      ++shard.counts.spilled;
    } else {
      ++shard.counts.evicted_unsaved;
    }
    shard.slots.remove(slot.context);
    return true;
  }
  return false;
}

// ---- feedback -----------------------------------------------------------------------------------

Observed ContextTable::observe(std::uint64_t context,
                               std::span<const Observation> observations) noexcept {
  if (words_ == 0) return Observed::kLearned;
  Shard& shard = shard_of(context);
  ContextPin pin;
  {
    const std::scoped_lock lock(shard.mutex);
    ContextSlot* slot = resident(shard, context);
    if (slot == nullptr) {
      const Observed observed = shard.waiting.contains(context)
                                    ? note(shard, context, observations)
                                    : observe_in_passing(shard, context, observations);
      if (observed == Observed::kRefused) ++shard.counts.refused;
      return observed;
    }
    slot->changed = true;
    pin = hold(shard, *slot);
  }
  policy_.observe(observations, pin.state());
  return Observed::kLearned;
}

Observed ContextTable::note(Shard& shard, std::uint64_t context,
                            std::span<const Observation> observations) noexcept {
  if (!charge(note_bytes(observations.size()))) return Observed::kRefused;
  Journal& journal = shard.waiting.find(context)->second;
  try {
    // The group comes first: one without its observations would be a lie, so it is taken back.
    journal.groups.push_back(static_cast<std::uint32_t>(observations.size()));
    try {
      journal.observations.insert(journal.observations.end(), observations.begin(),
                                  observations.end());
    } catch (...) {
      journal.groups.pop_back();
      throw;
    }
  } catch (const std::bad_alloc&) {
    noted_bytes_.fetch_sub(note_bytes(observations.size()), std::memory_order_relaxed);
    return Observed::kRefused;
  }
  return Observed::kNoted;
}

/// There is no slot for the context: it learns on its way from the store and back.
Observed ContextTable::observe_in_passing(Shard& shard, std::uint64_t context,
                                          std::span<const Observation> observations) noexcept {
  std::unique_ptr<std::atomic<double>[]> numbers;
  const PolicyState state = scratch(numbers);
  if (state.empty()) return Observed::kRefused;
  const ContextLoad loaded = load(shard, context, state);
  if (loaded == ContextLoad::kRefused) return Observed::kRefused;
  if (loaded == ContextLoad::kLater) return note(shard, context, observations);
  policy_.observe(observations, state);
  if (store_->save(context, state)) {
    ++shard.counts.spilled;
    return Observed::kLearned;
  }
  if (loaded == ContextLoad::kReturned) ++shard.counts.forgotten;
  return Observed::kRefused;
}

PolicyState ContextTable::scratch(std::unique_ptr<std::atomic<double>[]>& numbers) const noexcept {
  numbers.reset(new (std::nothrow) std::atomic<double>[words_]);
  return numbers ? PolicyState(numbers.get(), words_) : PolicyState();
}

bool ContextTable::charge(std::size_t bytes) noexcept {
  if (noted_bytes_.fetch_add(bytes, std::memory_order_relaxed) + bytes <= max_noted_bytes_) {
    return true;
  }
  noted_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
  return false;
}

// ---- the drainer --------------------------------------------------------------------------------

bool ContextTable::put_loaded(std::uint64_t context, std::span<const double> stored) noexcept {
  if (words_ == 0) return true;
  Shard& shard = shard_of(context);
  const std::scoped_lock lock(shard.mutex);
  const auto waiting = shard.waiting.find(context);
  if (waiting == shard.waiting.end()) return true;
  std::unique_ptr<std::atomic<double>[]> numbers;
  ContextSlot* slot = add(shard, context);
  const PolicyState state = slot != nullptr ? shard.slots.state(*slot) : scratch(numbers);
  if (state.empty()) return false;
  if (stored.empty()) {
    begin(state);
  } else {
    for (std::size_t i = 0; i < words_; ++i) state[i].store(stored[i], std::memory_order_relaxed);
  }
  const bool changes = !waiting->second.groups.empty();
  learn(waiting->second, state);
  if (slot != nullptr) {
    slot->changed = changes;
  } else if (changes) {
    // What others may have to save without being asked comes first.
    if (!store_->has_room() || !store_->save(context, state)) return false;
    ++shard.counts.spilled;
  }
  ++(stored.empty() ? shard.counts.begun : shard.counts.loaded);
  forget_waiting(shard, context);
  return true;
}

void ContextTable::learn(const Journal& journal, PolicyState state) const noexcept {
  std::span<const Observation> rest = journal.observations;
  for (const std::uint32_t size : journal.groups) {
    policy_.observe(rest.first(size), state);
    rest = rest.subspan(size);
  }
}

void ContextTable::forget_waiting(Shard& shard, std::uint64_t context) noexcept {
  const auto waiting = shard.waiting.find(context);
  const Journal& journal = waiting->second;
  const std::size_t bytes = kWaitingBytes + journal.observations.size() * sizeof(Observation) +
                            journal.groups.size() * sizeof(std::uint32_t);
  shard.waiting.erase(waiting);
  noted_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
}

void ContextTable::take_changed(std::size_t number, ContextBatch& batch) {
  Shard& shard = *shards_.at(number);
  const std::scoped_lock lock(shard.mutex);
  for (std::uint32_t i = 0; i < shard.slots.made(); ++i) {
    ContextSlot& slot = shard.slots.at(i);
    if (!slot.used || !slot.changed) continue;
    // Whoever holds it may learn after this copy: it counts as changed until that is saved, too.
    // Pairs with the release of ContextPin.
    const bool is_held = slot.pins.load(std::memory_order_acquire) != 0;
    batch.append(slot.context, shard.slots.state(slot));
    slot.changed = is_held;
  }
}

ContextCounts ContextTable::counts() noexcept {
  ContextCounts sum;
  if (store_) {
    sum.stored = store_->held();
    sum.forgotten = store_->forgotten();
  }
  for (const auto& shard : shards_) {
    const std::scoped_lock lock(shard->mutex);
    const ContextCounts& counts = shard->counts;
    sum.in_memory += shard->slots.size();
    sum.bytes += shard->slots.bytes() + sizeof(Shard);
    sum.waiting += shard->waiting.size();
    for (const auto& [context, journal] : shard->waiting) sum.noted += journal.observations.size();
    sum.begun += counts.begun;
    sum.loaded += counts.loaded;
    sum.spilled += counts.spilled;
    sum.evicted_unsaved += counts.evicted_unsaved;
    sum.served_by_own += counts.served_by_own;
    sum.refused += counts.refused;
    sum.forgotten += counts.forgotten;
  }
  return sum;
}

}  // namespace clipper
