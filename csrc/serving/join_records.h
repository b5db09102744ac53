// What is kept of answered queries until their feedback comes: who was asked, how probable that
// was, what each model answered.
//
// A ring of bytes: a record is a run of them, and its ticket is where it begins, counted from the
// first record ever, so that it is found without a search. A new record pushes out the oldest ones.
// Memory is taken from the system as the ring first fills.
//
// Thread safety: all of it. The lock is held to reserve a record or to find one, never while one
// is written or read: a record that somebody uses is pinned, and what would push it out is not kept
// instead of waiting.
// Invariants: tail <= head <= tail + capacity; records between them lie one after the other.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "base/clock.h"
#include "base/output_layout.h"
#include "serving/feedback_tally.h"
#include "serving/query.h"

namespace clipper {

struct Outcome;

/// A query that was answered. Lies in the ring, followed by what it points to.
struct JoinRecord {
  struct Asked {
    std::uint16_t model = 0;
    float propensity = 1.0F;
    Deployment* deployment = nullptr;  ///< nullptr: there was none
  };
  /// One row: bit i stands for the i-th model asked.
  struct Row {
    std::uint32_t answered = 0;           ///< whose answers are kept
    std::uint32_t given = 0;              ///< whose answers equal the one that was given
    std::atomic<std::uint32_t> taken{0};  ///< 1: it has had its feedback, or is having it
  };

  std::uint64_t ticket = 0;
  std::size_t bytes = 0;  ///< of all of it
  Nanos kept_ns = 0;
  const Application* application = nullptr;
  const OutputLayout* layout = nullptr;  ///< nullptr: no model was there to be asked
  std::uint64_t context = 0;
  std::uint32_t rows = 0;  ///< 0: it only fills the ring up to its end
  std::uint16_t asks = 0;
  bool has_context = false;
  static constexpr std::uint32_t kWriting = 1u << 31;
  std::atomic<std::uint32_t> users{0};  ///< how many read it now, and whether it is being written

  [[nodiscard]] Asked& asked(std::uint16_t ask) noexcept {
    return reinterpret_cast<Asked*>(this + 1)[ask];
  }
  [[nodiscard]] Row& row(std::uint32_t index) noexcept {
    return reinterpret_cast<Row*>(&asked(asks))[index];
  }
  /// REQUIRES: a layout.
  [[nodiscard]] std::byte* output(std::uint16_t ask, std::uint32_t index) noexcept {
    return reinterpret_cast<std::byte*>(this) + outputs_offset(asks, rows) +
           (std::size_t{ask} * rows + index) * layout->row_bytes();
  }
  /// Where outputs begin.
  [[nodiscard]] static std::size_t outputs_offset(std::uint16_t asks, std::uint32_t rows) noexcept {
    constexpr std::size_t kAlignment = 16;  // of rows, as OutputLayout's own
    const std::size_t bytes =
        sizeof(JoinRecord) + asks * sizeof(Asked) + std::size_t{rows} * sizeof(Row);
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
};

/// A record that stays where it is until this goes.
class RecordPin {
 public:
  RecordPin() = default;
  explicit RecordPin(JoinRecord& record) noexcept : record_(&record) {}
  RecordPin(RecordPin&& other) noexcept : record_(other.record_) { other.record_ = nullptr; }
  RecordPin& operator=(RecordPin&&) = delete;
  ~RecordPin() {
    // Pairs with the acquire of whoever reuses the memory.
    if (record_ != nullptr) record_->users.fetch_sub(1, std::memory_order_release);
  }

  [[nodiscard]] explicit operator bool() const noexcept { return record_ != nullptr; }
  [[nodiscard]] JoinRecord& operator*() const noexcept { return *record_; }
  [[nodiscard]] JoinRecord* operator->() const noexcept { return record_; }

 private:
  JoinRecord* record_ = nullptr;
};

class JoinRecords {
 public:
  /// Not a record: its feedback is answered kUnknown.
  static constexpr std::uint64_t kNoTicket = 0;
  /// A record that could not be kept: its feedback is answered kExpired.
  static constexpr std::uint64_t kNotKept = 1;

  struct Options {
    std::size_t bytes = std::size_t{64} << 20;  ///< rounded down to 64
    Nanos window_ns = 600 * kSecond;            ///< records expire at this age
  };
  struct Statistics {
    std::uint64_t records = 0;
    std::size_t bytes = 0;
  };

  explicit JoinRecords(const Options& options);
  ~JoinRecords();
  JoinRecords(const JoinRecords&) = delete;
  JoinRecords& operator=(const JoinRecords&) = delete;

  /// Keeps an answered query. Returns its ticket, or kNotKept. REQUIRES: all asks are settled.
  [[nodiscard]] std::uint64_t keep(Query& query, const Outcome& outcome, Nanos now_ns) noexcept;

  /// The record of a ticket that keep() returned; none: `status` says why, kExpired or kUnknown.
  [[nodiscard]] RecordPin find(std::uint64_t ticket, Nanos now_ns, FeedbackStatus& status) noexcept;

  [[nodiscard]] Statistics statistics() noexcept;
  [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }
  [[nodiscard]] Nanos window_ns() const noexcept { return window_ns_; }

 private:
  /// A record that nobody may find yet, pinned; nullptr: no room.
  [[nodiscard]] JoinRecord* reserve(std::size_t bytes, std::uint32_t rows, Nanos now_ns) noexcept;
  [[nodiscard]] bool make_room(std::size_t bytes, Nanos now_ns) noexcept;
  [[nodiscard]] bool map_memory() noexcept;
  [[nodiscard]] bool drop_oldest() noexcept;
  JoinRecord& append(std::size_t bytes, std::uint32_t rows, Nanos now_ns) noexcept;
  [[nodiscard]] JoinRecord& at(std::uint64_t position) const noexcept {
    return *reinterpret_cast<JoinRecord*>(memory_ + position % capacity_);
  }

  const std::size_t capacity_;
  const Nanos window_ns_;

  std::mutex mutex_;             // guards what follows
  std::byte* memory_ = nullptr;  // until the first record
  std::uint64_t head_;           // tickets are positions: they begin above the special ones
  std::uint64_t tail_;
  std::uint64_t records_ = 0;
};

}  // namespace clipper
