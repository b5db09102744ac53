// What a driver runs: consecutive rows in memory, and whose they are.
//
// Thread safety: belongs to the driver of its replica from claim to complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "base/errors.h"
#include "queue/waiting_rows.h"

namespace clipper {

class Replica;

struct Batch {
  Replica* replica = nullptr;
  std::vector<WaitingRows> entries;  // in the order in which their rows lie at `data`
  std::uint32_t rows = 0;
  const std::byte* data = nullptr;
  RowRun staging;  // where they were gathered, if they were not one run
  Nanos start_ns = 0;
  Nanos bound_ns = 0;  // what the latency model expected at most; 0: nothing yet
  bool in_flight = false;

  [[nodiscard]] bool was_gathered() const noexcept { return staging.block != nullptr; }
  /// The block that a view of the batch must lease.
  [[nodiscard]] Block& block() const noexcept {
    return was_gathered() ? *staging.block : *entries.front().run.block;
  }
};

}  // namespace clipper
