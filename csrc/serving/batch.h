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
  const std::byte* data = nullptr;  // of the first column's first row
  RowRun staging;                   // where they were gathered, if they were not one run
  Lane lane = 0;
  Nanos start_ns = 0;
  Nanos bound_ns = 0;  // what the latency model expected at most; 0: nothing yet
  bool in_flight = false;

  [[nodiscard]] bool was_gathered() const noexcept { return staging.block != nullptr; }
  /// The block that a view of the batch must lease.
  [[nodiscard]] Block& block() const noexcept { return *run().block; }
  /// Where its rows lie.
  [[nodiscard]] RowRun run() const noexcept {
    if (was_gathered()) return staging;
    const RowRun& first = entries.front().run;
    return {first.block, first.first, rows};
  }
  /// A column's first row; of a ragged one the first value of all.
  [[nodiscard]] const std::byte* column(std::size_t index) const noexcept {
    const RowRun at = run();
    const BlockLayout& layout = *at.block->layout;
    return layout.row(at.block->data, index, layout.columns()[index].ragged ? 0 : at.first);
  }
  /// Ragged columns: where each row begins, in items after column(); rows + 1 of them.
  [[nodiscard]] const std::int64_t* offsets(std::size_t index) const noexcept {
    const RowRun at = run();
    return at.block->layout->offsets(at.block->data, index) + at.first;
  }
};

}  // namespace clipper
