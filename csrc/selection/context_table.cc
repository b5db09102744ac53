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
      kept_words_(words_ == 0 ? 0 : words_ + (options.lasts ? 1 : 0)),
      watches_(policy.watches()),
      journal_(options.journal),
      application_(options.application),
      own_(new std::atomic<double>[kept_words_]()),
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
    return each < sizeof(Shard) ? 0 : ContextSlots::fit(kept_words_, each - sizeof(Shard));
  };
  while (count > 1 && most() < kFewest) count /= 2;
  if (most() == 0) {
    throw Error(ErrorCode::kInvalidArgument,
                std::to_string(options.max_bytes) + " bytes hold no context: one has " +
                    std::to_string(kept_words_) + " numbers; give more");
  }
  for (std::size_t i = 0; i < count; ++i) {
    shards_.push_back(std::make_unique<Shard>(kept_words_, most()));
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
  return ContextPin(of_policy(shard.slots.state(slot)), &slot.pins);
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

void ContextTable::begin(PolicyState kept) noexcept {
  for (std::size_t i = 0; i < words_; ++i) {
    kept[i].store(own_[i].load(std::memory_order_relaxed), std::memory_order_relaxed);
  }
  // The entries that the own state has in it were not this context's.
  for (std::size_t i = words_; i < kept_words_; ++i) kept[i].store(0, std::memory_order_relaxed);
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

Observed ContextTable::observe(std::span<const Observation> observations) noexcept {
  if (words_ == 0) return Observed::kLearned;
  const Lesson lesson{observations};
  if (journal_ == nullptr) {
    policy_.observe(observations, own());
    return Observed::kLearned;
  }
  const std::scoped_lock lock(own_mutex_);
  const PolicyState kept(own_.get(), kept_words_);
  const bool is_learned = enter(0, false, lesson, [&](EntryNumber number) {
    apply(lesson, number, kept);
    return true;
  });
  return is_learned ? Observed::kLearned : Observed::kRefused;
}

Observed ContextTable::observe(std::uint64_t context,
                               std::span<const Observation> observations) noexcept {
  return words_ == 0 ? Observed::kLearned : learn(context, {observations});
}

Observed ContextTable::replay(const JournalEntry& entry) noexcept {
  if (words_ == 0) return Observed::kLearned;
  const Lesson lesson{entry.observations, entry.number};
  if (entry.has_context) return learn(entry.context, lesson);
  const std::scoped_lock lock(own_mutex_);
  apply(lesson, entry.number, PolicyState(own_.get(), kept_words_));
  return Observed::kLearned;
}

Observed ContextTable::learn(std::uint64_t context, const Lesson& lesson) noexcept {
  Shard& shard = shard_of(context);
  ContextPin pin;
  {
    const std::scoped_lock lock(shard.mutex);
    ContextSlot* slot = resident(shard, context);
    if (slot == nullptr) {
      const Observed observed = shard.waiting.contains(context)
                                    ? note(shard, context, lesson)
                                    : learn_in_passing(shard, context, lesson);
      if (observed == Observed::kRefused) ++shard.counts.refused;
      return observed;
    }
    slot->changed = true;
    if (kept_words_ != words_) {
      slot->referenced = true;
      const bool is_learned = enter(context, true, lesson, [&](EntryNumber number) {
        apply(lesson, number, shard.slots.state(*slot));
        return true;
      });
      if (!is_learned) ++shard.counts.refused;
      return is_learned ? Observed::kLearned : Observed::kRefused;
    }
    pin = hold(shard, *slot);
  }
  policy_.observe(lesson.observations, pin.state());
  return Observed::kLearned;
}

/// Has something learned as an entry of the journal: all of it, or nothing.
template <typename Learn>
bool ContextTable::enter(std::uint64_t context, bool has_context, const Lesson& lesson,
                         Learn&& learns) noexcept {
  if (journal_ == nullptr || lesson.number != 0) return learns(lesson.number);
  FeedbackJournal::Entry entry =
      journal_->open(application_, context, has_context, lesson.observations);
  if (!entry || !learns(entry.number())) return false;
  entry.commit();
  return true;
}

Observed ContextTable::note(Shard& shard, std::uint64_t context, const Lesson& lesson) noexcept {
  const std::size_t bytes = note_bytes(lesson.observations.size());
  if (!charge(bytes)) return Observed::kRefused;
  Notes& notes = shard.waiting.find(context)->second;
  const auto add = [&](EntryNumber number) noexcept {
    try {
      // The group comes first: one without its observations would be a lie, so it is taken back.
      notes.groups.push_back({static_cast<std::uint32_t>(lesson.observations.size()), number});
      try {
        notes.observations.insert(notes.observations.end(), lesson.observations.begin(),
                                  lesson.observations.end());
      } catch (...) {
        notes.groups.pop_back();
        throw;
      }
    } catch (const std::bad_alloc&) {
      return false;
    }
    return true;
  };
  if (enter(context, true, lesson, add)) return Observed::kNoted;
  noted_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
  return Observed::kRefused;
}

/// There is no slot for the context: it learns on its way from the store and back.
Observed ContextTable::learn_in_passing(Shard& shard, std::uint64_t context,
                                        const Lesson& lesson) noexcept {
  std::unique_ptr<std::atomic<double>[]> numbers;
  const PolicyState state = scratch(numbers);
  if (state.empty()) return Observed::kRefused;
  const ContextLoad loaded = load(shard, context, state);
  if (loaded == ContextLoad::kRefused) return Observed::kRefused;
  if (loaded == ContextLoad::kLater) return note(shard, context, lesson);
  bool was_applied = false;
  const bool is_learned = enter(context, true, lesson, [&](EntryNumber number) {
    was_applied = true;
    apply(lesson, number, state);
    return store_->save(context, state);
  });
  if (is_learned) {
    ++shard.counts.spilled;
    return Observed::kLearned;
  }
  // It goes back as it came, if it can.
  if (loaded == ContextLoad::kReturned && (was_applied || !store_->save(context, state))) {
    ++shard.counts.forgotten;
  }
  return Observed::kRefused;
}

void ContextTable::apply(const Lesson& lesson, EntryNumber number,
                         PolicyState kept) const noexcept {
  if (kept_words_ != words_ && number != 0) {
    std::atomic<double>& last = kept[words_];
    if (number <= static_cast<EntryNumber>(last.load(std::memory_order_relaxed))) return;
    last.store(static_cast<double>(number), std::memory_order_relaxed);
  }
  policy_.observe(lesson.observations, of_policy(kept));
}

void ContextTable::apply(const Notes& notes, PolicyState kept) const noexcept {
  std::span<const Observation> rest = notes.observations;
  for (const Group& group : notes.groups) {
    apply({rest.first(group.observations)}, group.number, kept);
    rest = rest.subspan(group.observations);
  }
}

PolicyState ContextTable::scratch(std::unique_ptr<std::atomic<double>[]>& numbers) const noexcept {
  numbers.reset(new (std::nothrow) std::atomic<double>[kept_words_]);
  return numbers ? PolicyState(numbers.get(), kept_words_) : PolicyState();
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
    for (std::size_t i = 0; i < kept_words_; ++i)
      state[i].store(stored[i], std::memory_order_relaxed);
  }
  const bool changes = !waiting->second.groups.empty();
  apply(waiting->second, state);
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

void ContextTable::forget_waiting(Shard& shard, std::uint64_t context) noexcept {
  const auto waiting = shard.waiting.find(context);
  const Notes& notes = waiting->second;
  const std::size_t bytes = kWaitingBytes + notes.observations.size() * sizeof(Observation) +
                            notes.groups.size() * sizeof(Group);
  shard.waiting.erase(waiting);
  noted_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
}

EntryNumber ContextTable::take_changed(std::size_t number, ContextBatch& batch) {
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
  EntryNumber first = kNoEntry;
  for (const auto& [context, notes] : shard.waiting) {
    if (!notes.groups.empty()) first = std::min(first, notes.groups.front().number);
  }
  return first;
}

void ContextTable::save_own(double* numbers) noexcept {
  const std::scoped_lock lock(own_mutex_);
  for (std::size_t i = 0; i < kept_words_; ++i) {
    numbers[i] = own_[i].load(std::memory_order_relaxed);
  }
}

void ContextTable::restore_own(std::span<const double> numbers) noexcept {
  const std::scoped_lock lock(own_mutex_);
  for (std::size_t i = 0; i < kept_words_; ++i) {
    own_[i].store(numbers[i], std::memory_order_relaxed);
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
    for (const auto& [context, notes] : shard->waiting) sum.noted += notes.observations.size();
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
