#include "selection/epsilon_greedy.h"

#include <algorithm>

namespace clipper {

EpsilonGreedy::EpsilonGreedy(double epsilon, double memory, float failure_loss)
    : MeansBandit(memory, failure_loss), epsilon_(epsilon) {
  if (!(epsilon >= 0.0 && epsilon <= 1.0)) {
    throw Error(ErrorCode::kInvalidArgument, "epsilon must lie in [0, 1]");
  }
}

void EpsilonGreedy::shares(PolicyState state, std::span<double> shares) const noexcept {
  const ArmMeans arms = means(state);
  // Nothing known counts as no loss: every model is tried before any is settled on. Equals share.
  double least = 2.0;
  for (std::size_t i = 0; i < arms.models(); ++i) {
    shares[i] = arms.loss(i);
    least = std::min(least, shares[i]);
  }
  double best = 0.0;
  for (std::size_t i = 0; i < arms.models(); ++i) best += shares[i] <= least;
  const double anyway = epsilon_ / static_cast<double>(arms.models());
  for (std::size_t i = 0; i < arms.models(); ++i) {
    shares[i] = anyway + (shares[i] <= least ? (1.0 - epsilon_) / best : 0.0);
  }
}

}  // namespace clipper
