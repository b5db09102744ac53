// Rows of one ask on their way past its deployment's cache: what engine_cache.cc does for a whole
// query and walk_cache.cc for a stage has this in common.
//
// Thread safety: of one thread.
#pragma once

#include <cstdint>

#include "serving/engine.h"

namespace clipper {

/// `rows` rows from row 0 of `columns` on; they are those of the query from row `offset` on.
struct Engine::CachedAsk {
  Query& query;
  Ask& ask;
  const std::uint16_t index;
  Deployment& deployment;
  PredictionCache& cache;
  const ColumnRows* const columns;
  const std::uint32_t offset;
  const std::uint32_t rows;
  const Nanos answer_by_ns;  ///< of a stage earlier than its query's
  const Nanos arrived_ns;
  const Nanos now_ns;

  // Of the rows from `first_missed` on; those of hits and joined rows are not used.
  Flight* flights = nullptr;
  std::uint32_t first_missed = 0;
  std::uint32_t missed = 0;

  [[nodiscard]] Handle handle() const noexcept { return {query.slot, query.generation, index, 0}; }
  [[nodiscard]] Flight& flight(std::uint32_t row) const noexcept {
    return flights[row - first_missed];
  }
  /// REQUIRES: row >= first_missed.
  [[nodiscard]] bool is_missed(std::uint32_t row) const noexcept {
    return flight(row).cache != nullptr;
  }

  /// A hit is copied to its place in the ask; kLost also where a miss found no memory for a flight.
  /// REQUIRES: the right to write, and that the ask has room for outputs.
  [[nodiscard]] PredictionCache::Found look_up(std::uint32_t row) noexcept {
    const Waiter waiter{handle(),   offset + row,   answer_by_ns,
                        arrived_ns, query.priority, answer_by_ns < query.answer_by_ns};
    const auto may_join = [&](const Flight& flight) {
      return deployment.may_join(flight, now_ns, answer_by_ns, deployment.lane_of(columns, row),
                                 query.priority);
    };
    const auto make_flight = [&]() -> Flight* {
      if (flights == nullptr) {
        first_missed = row;
        flights = Flight::make(rows - row);
      }
      return flights == nullptr ? nullptr : &flight(row);
    };
    std::byte* output =
        ask.outputs().data() + (offset + row) * deployment.output_layout().row_bytes();
    const auto found =
        cache.look_up(cache.key_of(columns, row), waiter, now_ns, output, may_join, make_flight);
    if (found != PredictionCache::Found::kMissed) return found;
    if (flights == nullptr) return PredictionCache::Found::kLost;
    ++missed;
    return found;
  }

  /// Last, once every missed row was pushed or refused.
  void release_flights() const noexcept {
    if (flights != nullptr) Flight::release(*flights, 1 + rows - first_missed - missed);
  }
};

}  // namespace clipper
