// How long a replica takes that exists only in simulated time.
//
// Thread safety: const members from any thread; draws need a Random of their own.
#pragma once

#include <cstdint>
#include <functional>

#include "base/clock.h"
#include "base/random.h"

namespace clipper {

struct SimulatedModel {
  /// What a calm batch of so many rows takes, in ns.
  std::function<double(std::uint32_t rows)> latency_ns;
  double sigma = 0;                  ///< of the logarithm of a run's latency
  std::uint32_t preempt_one_in = 0;  ///< so many runs, one takes preempt_factor times as long
  double preempt_factor = 20;
  std::uint32_t fail_one_in = 0;  ///< so many batches, the model raises in one
  Nanos drift_at_ns = kNever;     ///< from here on everything takes drift_factor times as long
  double drift_factor = 1;

  /// A run of `rows` rows that starts at `now_ns`.
  [[nodiscard]] Nanos draw_ns(std::uint32_t rows, Nanos now_ns, Random& random) const;
  [[nodiscard]] bool draw_failure(Random& random) const {
    return fail_one_in > 0 && random.below(fail_one_in) == 0;
  }
};

/// fixed_ns + per_row_ns * rows.
[[nodiscard]] SimulatedModel linear_model(Nanos fixed_ns, Nanos per_row_ns);

/// Rows per second that one replica sustains within the objective: the largest b / l(b) of a batch
/// that takes at most half of it, because a row may have to wait for the batch before its own. A
/// model whose single row takes longer than that counts with the single row.
[[nodiscard]] double slo_capacity(const SimulatedModel& model, Nanos slo_ns);

}  // namespace clipper
