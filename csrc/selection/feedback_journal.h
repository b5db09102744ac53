// What feedback has taught, in the order in which it was learned, until somebody has written it
// down where it lasts.
//
// Each entry has a number, one more than the entry before it. Whoever learns opens an entry, learns
// under that number, and commits it: the number stays with the state that has learned, so that a
// state that was saved says by itself which entries it has in it.
//
// Whoever waits, works: of those who wait for their entries to last, one leads, that is, writes all
// that is there, for everybody; a thread that writes now and then takes the lead like them.
//
// Thread safety: all of it; take(), settle() and give_up() are for whoever leads. Entries lock the
// journal while they are open, and are opened under the locks of a ContextTable: nothing is called
// under its own. Invariant: an entry is written down, waits to be, or was dropped, and then whoever
// waits for it is told that it does not last.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "base/event_fd.h"
#include "selection/policy.h"

namespace clipper {

/// The number of an entry; 0 is before the first. Below 2^53, so that a double holds it.
using EntryNumber = std::uint64_t;

/// Entries of one application, as they are written down: packed one after the other, numbers as
/// the machine has them (little-endian on all that are supported):
///
///   number (8) context (8) count (2) has context (1), and `count` times
///   model (2) loss (4, float) propensity (4, float)
struct JournalSegment {
  std::uint32_t application = 0;
  EntryNumber first = 0;
  EntryNumber last = 0;
  std::vector<std::byte> entries;
};

/// One entry, as it is read back.
struct JournalEntry {
  EntryNumber number = 0;
  std::uint64_t context = 0;
  bool has_context = false;
  std::vector<Observation> observations;
};

/// Takes the entry at the front of `entries` off them. False: they are at their end, or damaged,
/// and then not empty. Throws std::bad_alloc.
[[nodiscard]] bool read_entry(std::span<const std::byte>& entries, JournalEntry& entry);

class FeedbackJournal {
 public:
  static constexpr std::size_t kHeadBytes = 19;
  static constexpr std::size_t kObservationBytes = 10;

  /// `last`: the number of the last entry ever. Beyond `max_bytes` that wait, entries are dropped.
  FeedbackJournal(EntryNumber last, std::size_t max_bytes)
      : max_bytes_(max_bytes), last_(last), durable_(last) {}

  /// Something that is being learned: the journal is locked while it lives.
  class Entry {
   public:
    /// False: there is no memory, and nothing may be learned.
    explicit operator bool() const noexcept { return journal_ != nullptr; }
    [[nodiscard]] EntryNumber number() const noexcept { return journal_->last_ + 1; }
    /// It was learned.
    void commit() noexcept;

   private:
    friend class FeedbackJournal;
    std::unique_lock<std::mutex> lock_;
    FeedbackJournal* journal_ = nullptr;
    JournalSegment* segment_ = nullptr;  // nullptr: it will be dropped
    std::uint64_t context_ = 0;
    bool has_context_ = false;
    std::span<const Observation> observations_;
  };
  /// REQUIRES: the observations outlive the entry.
  [[nodiscard]] Entry open(std::uint32_t application, std::uint64_t context, bool has_context,
                           std::span<const Observation> observations) noexcept;

  /// The last entry that was committed.
  [[nodiscard]] EntryNumber appended() noexcept;

  enum class Waited : std::uint8_t {
    kDurable,
    kGivenUp,  ///< it could not be written when it was tried
    kLead,  ///< the caller leads now: it must take() and settle(), or give up, then stop_leading()
  };
  /// Waits until an entry lasts, was given up, or nobody leads.
  [[nodiscard]] Waited wait(EntryNumber number) noexcept;
  /// What is known now: kLead: nothing.
  [[nodiscard]] Waited look(EntryNumber number) noexcept;
  /// Waits until nobody leads, and leads: before any of those who wait for an entry.
  void lead() noexcept;
  /// What was taken and not settled waits as before.
  void stop_leading() noexcept;

  /// All that waits, which stays here until it is settled. Throws std::bad_alloc.
  [[nodiscard]] const std::vector<JournalSegment>& take();
  /// What was taken is written down.
  void settle() noexcept;
  /// Nothing can be written now: whoever waits is told, what waits to be written goes on to.
  void give_up() noexcept;

  struct Counts {
    std::size_t bytes = 0;  ///< that wait
    std::uint64_t dropped = 0;
    EntryNumber appended = 0;
    EntryNumber durable = 0;
  };
  [[nodiscard]] Counts counts() noexcept;

  /// For whoever writes when nobody waits. The stores of contexts may ring it, too.
  [[nodiscard]] EventFd& doorbell() noexcept { return doorbell_; }

 private:
  [[nodiscard]] JournalSegment* segment_of(std::uint32_t application);
  [[nodiscard]] Waited state_of(EntryNumber number) const noexcept;

  const std::size_t max_bytes_;
  EventFd doorbell_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::vector<JournalSegment> pending_;  // one for each application that has entries, or had
  std::vector<JournalSegment> taken_;
  std::size_t bytes_ = 0;
  EntryNumber last_;
  EntryNumber durable_;       // all up to here that were not dropped
  EntryNumber given_up_ = 0;  // those up to here that are not durable
  EntryNumber dropped_ = 0;   // the last one
  EntryNumber taken_up_to_ = 0;
  std::uint64_t drops_ = 0;
  bool is_led_ = false;
  unsigned wanting_ = 0;  // who must lead, before those who only may
};

}  // namespace clipper
