// Inputs that were in flight when workers died: suspects, which run alone until they have shown
// that they are harmless, and those that have killed a worker for the second time, which are
// refused.
//
// An input is known by a keyed hash of its row. One that shared a batch with others when a worker
// died is a suspect; one that dies with its worker alone, and was a suspect before, is refused.
//
// Thread safety: all of it.
// Bounded: the oldest is forgotten when kMost are known.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "base/siphash.h"
#include "base/tensor.h"
#include "cache/row_hasher.h"
#include "queue/row_blocks.h"

namespace clipper {

enum class Suspicion : std::uint8_t { kNone, kSuspect, kRefused };

/// Consecutive rows of which the same is to be thought.
struct Screened {
  Suspicion suspicion = Suspicion::kNone;
  std::uint32_t rows = 0;      ///< a single one, unless there is no suspicion
  std::uint32_t error_id = 0;  ///< explains why, where it is refused
};

class Quarantine {
 public:
  static constexpr std::size_t kMost = 4096;

  explicit Quarantine(RowHasher hasher) : hasher_(std::move(hasher)) {}

  /// The usual case: nothing was ever suspected, so no row need be hashed.
  [[nodiscard]] bool is_empty() const noexcept {
    return size_.load(std::memory_order_acquire) == 0;
  }
  /// How an input is known: that of the run's first row.
  [[nodiscard]] Hash128 name_of(const RowRun& run) const noexcept;

  /// What is to be thought of row `first` of `source`, and of how many of the `rows` from there on.
  [[nodiscard]] Screened screen(const ColumnRows* source, std::uint32_t first,
                                std::uint32_t rows) const;
  /// It was in flight, `alone` or not, when a worker died. What it is from now on.
  Suspicion note_death(const Hash128& input, bool alone, std::uint32_t error_id);
  /// It ran alone and the worker lives.
  void acquit(const Hash128& input);
  [[nodiscard]] std::vector<Hash128> refused() const;

 private:
  struct Record {
    std::uint32_t deaths = 0;
    std::uint32_t error_id = 0;
    bool is_refused = false;
  };

  struct InOrder {
    bool operator()(const Hash128& a, const Hash128& b) const noexcept {
      return std::pair(a.high, a.low) < std::pair(b.high, b.low);
    }
  };

  const RowHasher hasher_;
  std::atomic<std::size_t> size_{0};
  mutable std::mutex mutex_;  // guards what follows
  std::map<Hash128, Record, InOrder> records_;
  std::deque<Hash128> in_order_;  // oldest first; may name what was acquitted
};

}  // namespace clipper
