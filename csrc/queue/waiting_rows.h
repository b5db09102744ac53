// What travels through a model's queue: whose rows these are, where they lie, and until when.
#pragma once

#include <cstdint>

#include "base/clock.h"
#include "base/packed_pointer.h"
#include "queue/row_blocks.h"

namespace clipper {

struct Flight;  // cache/flight.h: nobody follows it here

/// How rows come to wait.
enum class Trial : std::uint8_t {
  kFirst,    ///< as they came
  kAgain,    ///< they were in flight when a worker died
  kSuspect,  ///< a single row that a worker may have died of: it runs alone
};

/// Names one attempt to answer one ask of one query. Stale handles are recognised, never followed.
///
/// Rows that are tried again keep their attempt: between two tries nobody holds them but the queue,
/// because whoever had them is dead.
struct Handle {
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;
  std::uint16_t ask = 0;
  std::uint8_t attempt = 0;
  Trial trial = Trial::kFirst;
};

/// Rows of like length wait together: which of a deployment's lanes.
using Lane = std::uint8_t;
inline constexpr std::size_t kMaxLanes = 16;

/// Larger is more urgent.
using Priority = std::int8_t;
inline constexpr Priority kLeastPriority = -3;
inline constexpr Priority kMostPriority = 3;

struct WaitingRows {
  Handle handle;
  std::uint32_t offset = 0;  ///< the first of these rows within the query
  RowRun run;
  Nanos deadline_ns = kNever;
  Nanos arrived_ns = 0;
  Lane lane = 0;
  Priority priority = 0;  ///< within [kLeastPriority, kMostPriority]
  /// Of these rows, if others may wait for the same: see flight_of().
  PackedPointer<Flight> flight = {};
};
static_assert(sizeof(WaitingRows) == 56, "a queue's cell is one cache line");

}  // namespace clipper
