// What all batching strategies share: making decisions, learning from runs, adding up batches.
//
// Thread safety: stateless.
#pragma once

#include <algorithm>
#include <cstdint>

#include "batching/controller.h"
#include "batching/latency_model.h"

namespace clipper {

[[nodiscard]] inline Decision run_rows(std::uint32_t rows) noexcept {
  return {Decision::Kind::kRun, std::max(rows, 1U), 0};
}

[[nodiscard]] inline Decision drop_head() noexcept { return {Decision::Kind::kDrop, 1, 0}; }

[[nodiscard]] inline Decision wait_until(Nanos until_ns) noexcept {
  return {Decision::Kind::kWait, 0, until_ns};
}

/// `a - b` for times of which either may be kNever or nonsense: within [-kNever, kNever].
[[nodiscard]] constexpr Nanos time_between(Nanos from_ns, Nanos to_ns) noexcept {
  Nanos difference = 0;
  if (__builtin_sub_overflow(to_ns, from_ns, &difference))
    return to_ns > from_ns ? kNever : -kNever;
  return std::max(difference, -kNever);
}

/// The objective of the head: how long it had when it came.
[[nodiscard]] constexpr Nanos objective_ns(const Situation& situation) noexcept {
  if (situation.head_deadline_ns == kNever) return kNever;
  return std::max<Nanos>(time_between(situation.head_arrived_ns, situation.head_deadline_ns), 0);
}

/// A failed run teaches nothing.
inline void learn_from(const Run& run, LatencyModel& latency) noexcept {
  if (!run.failed && run.rows > 0)
    latency.observe(run.rows, time_between(run.start_ns, run.end_ns));
}

/// The most rows that have run and whose bound keeps `limit_ns`; at least 1.
[[nodiscard]] inline std::uint32_t rows_known_within(const LatencyModel& latency,
                                                     Nanos limit_ns) noexcept {
  return std::max(std::min(latency.rows_within(limit_ns), latency.largest_rows()), 1U);
}

/// Expected time for `rows` rows in full batches of `limit` and one for the rest.
[[nodiscard]] inline Nanos drain_in_batches(const LatencyModel& latency, std::uint32_t rows,
                                            std::uint32_t limit) noexcept {
  limit = std::max(limit, 1U);
  const std::uint32_t full = rows / limit;
  const std::uint32_t rest = rows % limit;
  Nanos total = 0;
  if (full > 0 && __builtin_mul_overflow(latency.expected_ns(limit), Nanos{full}, &total)) {
    return kNever;
  }
  return rest > 0 ? saturating_add(total, latency.expected_ns(rest)) : total;
}

}  // namespace clipper
