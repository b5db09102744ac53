// A flight: one evaluation of an input row that several queries wait for.
//
// It begins with the query that missed the cache, whose row is then evaluated. Others that ask for
// the same meanwhile join as waiters. Who owns the row may change: when its query is gone, the row
// goes to the waiter that is due first.
//
// Thread safety: what is marked "shard" is guarded by the lock of the flight's shard until it has
// landed, and belongs to who landed it then.
// Lifetime: the flights of one query are one array, freed when all of them were released. One that
// was opened is released by whoever ends its row: PredictionCache::land() and pass_on() say when.
#pragma once

#include <atomic>
#include <cstdint>
#include <new>
#include <vector>

#include "base/clock.h"
#include "base/siphash.h"
#include "queue/waiting_rows.h"

namespace clipper {

class PredictionCache;

/// A row of a query, for which an output is awaited.
struct Waiter {
  Handle handle;
  std::uint32_t offset = 0;  ///< of the row within its query
  Nanos deadline_ns = kNever;
  Nanos arrived_ns = 0;
  Priority priority = 0;
  /// The deadline is a stage's: nobody else watches it, and its query goes on after it.
  bool is_stages = false;
};

struct Flight {
  // Constant once it is open.
  Hash128 key;
  PredictionCache* cache = nullptr;
  std::uint32_t block_row = 0;  // where its row lies in its block

  // Shard.
  Flight* next_in_bucket = nullptr;
  bool is_open = false;         // others may join, and the answer will be kept: until a clear()
  Waiter owner;                 // whose row it is
  std::vector<Waiter> waiters;  // the others

  /// When the batch that it is in should have ended; 0: it waits. Set by the batch's driver.
  std::atomic<Nanos> ends_ns{0};

  /// `count` flights, each held once, and all once more by the caller; nullptr: there is no memory.
  [[nodiscard]] static Flight* make(std::uint32_t count) noexcept {
    auto* flights = new (std::nothrow) Flight[count];
    if (flights == nullptr) return nullptr;
    for (std::uint32_t i = 0; i < count; ++i) flights[i].first_ = flights;
    flights->held_.store(count + 1, std::memory_order_relaxed);
    return flights;
  }
  /// Gives `count` flights of one array back.
  static void release(Flight& any, std::uint32_t count) noexcept {
    Flight* first = any.first_;
    if (first->held_.fetch_sub(count, std::memory_order_acq_rel) == count) delete[] first;
  }

 private:
  Flight* first_ = nullptr;
  std::atomic<std::uint32_t> held_{0};  // of the whole array; the first one's counts
};

/// Of the `index`-th row of an entry that has flights. What was split off an entry shares its
/// array.
[[nodiscard]] inline Flight& flight_of(const WaitingRows& entry, std::uint32_t index) noexcept {
  Flight* flights = entry.flight.get();
  return flights[entry.run.first + index - flights->block_row];
}

}  // namespace clipper
