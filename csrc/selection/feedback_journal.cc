#include "selection/feedback_journal.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace clipper {
namespace {

template <typename Value>
void put(std::vector<std::byte>& to, Value value) noexcept {  // there is room
  const auto* bytes = reinterpret_cast<const std::byte*>(&value);
  to.insert(to.end(), bytes, bytes + sizeof(value));
}

template <typename Value>
Value get(std::span<const std::byte>& from) noexcept {
  Value value;
  std::memcpy(&value, from.data(), sizeof(value));
  from = from.subspan(sizeof(value));
  return value;
}

}  // namespace

bool read_entry(std::span<const std::byte>& entries, JournalEntry& entry) {
  if (entries.size() < FeedbackJournal::kHeadBytes) return false;
  std::span<const std::byte> rest = entries;
  entry.number = get<std::uint64_t>(rest);
  entry.context = get<std::uint64_t>(rest);
  const auto count = get<std::uint16_t>(rest);
  entry.has_context = get<std::uint8_t>(rest) != 0;
  if (rest.size() < count * FeedbackJournal::kObservationBytes) return false;
  entry.observations.clear();
  for (std::uint16_t i = 0; i < count; ++i) {
    Observation seen;
    seen.model = get<std::uint16_t>(rest);
    seen.loss = get<float>(rest);
    seen.propensity = get<float>(rest);
    entry.observations.push_back(seen);
  }
  entries = rest;
  return true;
}

// ---- appending ----------------------------------------------------------------------------------

FeedbackJournal::Entry FeedbackJournal::open(std::uint32_t application, std::uint64_t context,
                                             bool has_context,
                                             std::span<const Observation> observations) noexcept {
  Entry entry;
  entry.context_ = context;
  entry.has_context_ = has_context;
  entry.observations_ = observations;
  entry.lock_ = std::unique_lock(mutex_);
  const std::size_t bytes = kHeadBytes + observations.size() * kObservationBytes;
  if (bytes_ + bytes <= max_bytes_) {
    try {
      entry.segment_ = segment_of(application);
      std::vector<std::byte>& entries = entry.segment_->entries;
      if (entries.size() + bytes > entries.capacity()) {
        entries.reserve(
            std::max({entries.size() + bytes, 2 * entries.capacity(), std::size_t{256}}));
      }
    } catch (const std::bad_alloc&) {
      entry.lock_.unlock();
      return entry;
    }
  }
  entry.journal_ = this;
  return entry;
}

JournalSegment* FeedbackJournal::segment_of(std::uint32_t application) {
  for (JournalSegment& segment : pending_) {
    if (segment.application == application) return &segment;
  }
  pending_.push_back({application, 0, 0, {}});
  return &pending_.back();
}

void FeedbackJournal::Entry::commit() noexcept {
  FeedbackJournal& journal = *journal_;
  const EntryNumber number = ++journal.last_;
  if (segment_ == nullptr) {
    ++journal.drops_;
    journal.dropped_ = number;
    return;
  }
  std::vector<std::byte>& entries = segment_->entries;
  const std::size_t before = entries.size();
  if (entries.empty()) segment_->first = number;
  segment_->last = number;
  put(entries, number);
  put(entries, context_);
  put(entries, static_cast<std::uint16_t>(observations_.size()));
  put(entries, static_cast<std::uint8_t>(has_context_));
  for (const Observation& seen : observations_) {
    put(entries, seen.model);
    put(entries, seen.loss);
    put(entries, seen.propensity);
  }
  journal.bytes_ += entries.size() - before;
}

EntryNumber FeedbackJournal::appended() noexcept {
  const std::scoped_lock lock(mutex_);
  return last_;
}

// ---- waiting ------------------------------------------------------------------------------------

FeedbackJournal::Waited FeedbackJournal::state_of(EntryNumber number) const noexcept {
  // Entries that were dropped are passed over by `durable_`: to be on the safe side, nobody who
  // waited at that time is told more than that.
  if (drops_ != 0 && number <= dropped_) return Waited::kGivenUp;
  if (number <= durable_) return Waited::kDurable;
  return number <= given_up_ ? Waited::kGivenUp : Waited::kLead;
}

FeedbackJournal::Waited FeedbackJournal::look(EntryNumber number) noexcept {
  const std::scoped_lock lock(mutex_);
  return state_of(number);
}

FeedbackJournal::Waited FeedbackJournal::wait(EntryNumber number) noexcept {
  std::unique_lock lock(mutex_);
  for (;;) {
    const Waited waited = state_of(number);
    if (waited != Waited::kLead) return waited;
    if (!is_led_ && wanting_ == 0) {
      is_led_ = true;
      return Waited::kLead;
    }
    changed_.wait(lock);
  }
}

void FeedbackJournal::lead() noexcept {
  std::unique_lock lock(mutex_);
  ++wanting_;
  changed_.wait(lock, [&] { return !is_led_; });
  --wanting_;
  is_led_ = true;
}

void FeedbackJournal::stop_leading() noexcept {
  {
    const std::scoped_lock lock(mutex_);
    is_led_ = false;
  }
  changed_.notify_all();
}

// ---- writing ------------------------------------------------------------------------------------

const std::vector<JournalSegment>& FeedbackJournal::take() {
  const std::scoped_lock lock(mutex_);
  taken_.reserve(taken_.size() + pending_.size());
  for (JournalSegment& segment : pending_) {
    if (segment.entries.empty()) continue;
    taken_.push_back(std::move(segment));
    segment.entries.clear();
  }
  taken_up_to_ = last_;
  return taken_;
}

// Both leave it to stop_leading() to wake who waits.
void FeedbackJournal::settle() noexcept {
  const std::scoped_lock lock(mutex_);
  for (const JournalSegment& segment : taken_) bytes_ -= segment.entries.size();
  taken_.clear();
  durable_ = taken_up_to_;
}

void FeedbackJournal::give_up() noexcept {
  const std::scoped_lock lock(mutex_);
  given_up_ = last_;
}

FeedbackJournal::Counts FeedbackJournal::counts() noexcept {
  const std::scoped_lock lock(mutex_);
  return {bytes_, drops_, last_, durable_};
}

}  // namespace clipper
