#include "selection/log_weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

namespace clipper {
namespace {

/// The shortest way round the circle. Numbers lie on it, so one turn is enough.
double wrap(double difference) noexcept {
  constexpr double kHalf = LogWeights::kCircle / 2;
  if (difference > kHalf) return difference - LogWeights::kCircle;
  if (difference < -kHalf) return difference + LogWeights::kCircle;
  return difference;
}

}  // namespace

double LogWeights::checked_floor(double floor) {
  if (!(floor >= std::numeric_limits<double>::min() && floor <= 0.5)) {
    throw Error(ErrorCode::kInvalidArgument, "a floor must lie in (0, 0.5]");
  }
  return floor;
}

void LogWeights::shares(std::span<double> shares) const noexcept {
  const double reference = state_[0].load(std::memory_order_relaxed);
  double largest = 0.0;
  shares[0] = 0.0;
  for (std::size_t i = 1; i < state_.size(); ++i) {
    shares[i] = wrap(state_[i].load(std::memory_order_relaxed) - reference);
    largest = std::max(largest, shares[i]);
  }
  double sum = 0.0;
  for (std::size_t i = 0; i < state_.size(); ++i) {
    shares[i] = std::exp(shares[i] - largest);
    sum += shares[i];
  }
  for (std::size_t i = 0; i < state_.size(); ++i) shares[i] /= sum;
}

void LogWeights::lower(std::size_t model, double step) const noexcept {
  if (state_.size() == 1) return;  // its share is 1 whatever it weighs
  std::atomic<double>& weight = state_[model];
  double seen = weight.load(std::memory_order_relaxed);
  for (;;) {
    double largest_of_others = -kCircle;
    for (std::size_t i = 0; i < state_.size(); ++i) {
      if (i == model) continue;
      const double ahead = wrap(state_[i].load(std::memory_order_relaxed) - seen);
      largest_of_others = std::max(largest_of_others, ahead);
    }
    // One that is below the floor already, as the largest may have risen, stays where it is.
    const double down = std::min(step, std::max(-(largest_of_others + log_floor_), 0.0));
    double lowered = seen - down;
    if (lowered <= -kCircle) lowered += kCircle;
    if (weight.compare_exchange_weak(seen, lowered, std::memory_order_relaxed)) return;
  }
}

}  // namespace clipper
