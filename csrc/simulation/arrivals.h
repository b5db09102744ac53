// When queries come: arrival processes for simulated time and for planning.
//
// A process is a function that returns the next time of arrival, never an earlier one than before,
// and kNever when there are no more. The same seed gives the same times.
//
// Thread safety: one thread a process.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/clock.h"

namespace clipper {

using Arrivals = std::function<Nanos()>;

/// Independent arrivals, `rate` per second in the mean.
[[nodiscard]] Arrivals poisson_arrivals(double rate, std::uint64_t seed);

/// Gaps from a gamma distribution. `variation` is their coefficient of variation: 1 is Poisson, 3
/// comes in bursts.
[[nodiscard]] Arrivals gamma_arrivals(double rate, double variation, std::uint64_t seed);

/// Poisson whose rate is 0.4 times `rate` in calm phases and twice `rate` in busy ones, which last
/// `calm_ns` and `busy_ns` in the mean (exponentially distributed; at 10 to 6 the mean is `rate`).
[[nodiscard]] Arrivals markov_arrivals(double rate, Nanos calm_ns, Nanos busy_ns,
                                       std::uint64_t seed);

/// The given times. REQUIRES: ascending.
[[nodiscard]] Arrivals replayed_arrivals(std::vector<Nanos> times_ns);

/// The first `count` of a process.
[[nodiscard]] Arrivals first_of(std::uint64_t count, Arrivals arrivals);

/// Those in [from_ns, until_ns), of a process that starts at from_ns.
[[nodiscard]] Arrivals between(Nanos from_ns, Nanos until_ns, Arrivals arrivals);

/// All times of a process that ends.
[[nodiscard]] std::vector<Nanos> times_of(const Arrivals& arrivals);

}  // namespace clipper
