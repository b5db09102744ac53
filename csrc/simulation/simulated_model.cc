#include "simulation/simulated_model.h"

#include <algorithm>
#include <cmath>

#include "simulation/distributions.h"

namespace clipper {
namespace {

constexpr std::uint32_t kMostRows = 1U << 20;  // where a latency does not grow with the rows

}  // namespace

Nanos SimulatedModel::draw_ns(std::uint32_t rows, Nanos now_ns, Random& random) const {
  double taken_ns = latency_ns(rows);
  if (sigma > 0) taken_ns *= std::exp(sigma * draw_normal(random));
  if (now_ns >= drift_at_ns) taken_ns *= drift_factor;
  if (preempt_one_in > 0 && random.below(preempt_one_in) == 0) taken_ns *= preempt_factor;
  return std::max<Nanos>(static_cast<Nanos>(taken_ns), 1);
}

SimulatedModel linear_model(Nanos fixed_ns, Nanos per_row_ns) {
  SimulatedModel model;
  model.latency_ns = [=](std::uint32_t rows) {
    return static_cast<double>(fixed_ns) + static_cast<double>(per_row_ns) * rows;
  };
  return model;
}

double slo_capacity(const SimulatedModel& model, Nanos slo_ns) {
  double best = 1.0 / model.latency_ns(1);
  const double half_ns = static_cast<double>(slo_ns) / 2;
  for (std::uint32_t rows = 1; rows <= kMostRows && model.latency_ns(rows) <= half_ns; ++rows) {
    best = std::max(best, rows / model.latency_ns(rows));
  }
  return best * 1e9;
}

}  // namespace clipper
