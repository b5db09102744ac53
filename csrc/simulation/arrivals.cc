#include "simulation/arrivals.h"

#include <cmath>
#include <utility>

#include "base/random.h"
#include "simulation/distributions.h"

namespace clipper {
namespace {

constexpr double kNanosPerSecond = 1e9;

}  // namespace

Arrivals poisson_arrivals(double rate, std::uint64_t seed) {
  return [random = Random(seed), mean_ns = kNanosPerSecond / rate, at_ns = 0.0]() mutable {
    at_ns += random.exponential(mean_ns);
    return static_cast<Nanos>(at_ns);
  };
}

Arrivals gamma_arrivals(double rate, double variation, std::uint64_t seed) {
  const double shape = 1.0 / (variation * variation);
  return [random = Random(seed), shape, scale_ns = kNanosPerSecond / (rate * shape),
          at_ns = 0.0]() mutable {
    at_ns += draw_gamma(random, shape) * scale_ns;
    return static_cast<Nanos>(at_ns);
  };
}

Arrivals markov_arrivals(double rate, Nanos calm_ns, Nanos busy_ns, std::uint64_t seed) {
  Random random(seed);
  const double phase_end_ns = random.exponential(static_cast<double>(calm_ns));
  return [=, mean_ns = kNanosPerSecond / rate, at_ns = 0.0, end_ns = phase_end_ns,
          is_busy = false]() mutable {
    for (;;) {
      const double next_ns = at_ns + random.exponential(mean_ns / (is_busy ? 2.0 : 0.4));
      if (next_ns <= end_ns) {
        at_ns = next_ns;
        return static_cast<Nanos>(at_ns);
      }
      at_ns = end_ns;  // without memory: start afresh in the new phase
      is_busy = !is_busy;
      end_ns += random.exponential(static_cast<double>(is_busy ? busy_ns : calm_ns));
    }
  };
}

Arrivals replayed_arrivals(std::vector<Nanos> times_ns) {
  return [times = std::move(times_ns), next = std::size_t{0}]() mutable {
    return next < times.size() ? times[next++] : kNever;
  };
}

Arrivals first_of(std::uint64_t count, Arrivals arrivals) {
  return [arrivals = std::move(arrivals), left = count]() mutable {
    if (left == 0) return kNever;
    --left;
    return arrivals();
  };
}

Arrivals between(Nanos from_ns, Nanos until_ns, Arrivals arrivals) {
  return [arrivals = std::move(arrivals), from_ns, until_ns]() mutable {
    const Nanos at_ns = saturating_add(from_ns, arrivals());
    return at_ns < until_ns ? at_ns : kNever;
  };
}

std::vector<Nanos> times_of(const Arrivals& arrivals) {
  std::vector<Nanos> times;
  for (Nanos at_ns = arrivals(); at_ns != kNever; at_ns = arrivals()) times.push_back(at_ns);
  return times;
}

}  // namespace clipper
