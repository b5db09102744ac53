#include "selection/ucb1.h"

#include <cmath>

namespace clipper {

Ucb1::Ucb1(double memory, float failure_loss) : MeansBandit(memory, failure_loss) {}

void Ucb1::shares(PolicyState state, std::span<double> shares) const noexcept {
  const ArmMeans arms = means(state);
  double total = 0.0;
  double unknown = 0.0;
  for (std::size_t i = 0; i < arms.models(); ++i) {
    const double count = arms.count(i);
    total += count;
    unknown += count <= 0.0;
  }
  if (unknown > 0.0) {
    for (std::size_t i = 0; i < arms.models(); ++i) {
      shares[i] = arms.count(i) <= 0.0 ? 1.0 / unknown : 0.0;
    }
    return;
  }
  const double width = 2.0 * std::log(total);
  std::size_t best = 0;
  double bound_of_best = -1.0;
  for (std::size_t i = 0; i < arms.models(); ++i) {
    const double bound = 1.0 - arms.loss(i) + std::sqrt(width / arms.weight(i));
    shares[i] = 0.0;
    if (bound <= bound_of_best) continue;
    best = i;
    bound_of_best = bound;
  }
  shares[best] = 1.0;
}

}  // namespace clipper
