#include "selection/thompson.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"

namespace clipper {
namespace {

constexpr std::uint64_t kDrawsToDescribe = 1000;

/// Normally distributed (Marsaglia's polar method, 1964; the second number is not kept).
double normal(Random& random) noexcept {
  for (;;) {
    const double x = 2.0 * random.uniform() - 1.0;
    const double y = 2.0 * random.uniform() - 1.0;
    const double square = x * x + y * y;
    if (square < 1.0 && square > 0.0) return x * std::sqrt(-2.0 * std::log(square) / square);
  }
}

/// Gamma distributed with scale 1 (Marsaglia and Tsang, "A simple method for generating gamma
/// variables", 2000). REQUIRES: shape >= 1.
double gamma(double shape, Random& random) noexcept {
  const double d = shape - 1.0 / 3.0;
  const double c = 1.0 / std::sqrt(9.0 * d);
  for (;;) {
    const double x = normal(random);
    const double root = 1.0 + c * x;
    if (root <= 0.0) continue;
    const double v = root * root * root;
    const double u = 1.0 - random.uniform();  // in (0, 1]
    if (std::log(u) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
  }
}

}  // namespace

Thompson::Thompson(double memory, float failure_loss) : MeansBandit(memory, failure_loss) {}

std::uint16_t Thompson::draw(PolicyState state, std::uint64_t seed) const noexcept {
  const ArmMeans arms = means(state);
  Random random(seed);
  std::size_t best = 0;
  double largest = -1.0;
  for (std::size_t i = 0; i < arms.models(); ++i) {
    const double known = arms.weight(i);
    const double lost = known * arms.loss(i);
    const double reward = gamma(1.0 + (known - lost), random);
    const double drawn = reward / (reward + gamma(1.0 + lost, random));
    if (drawn <= largest) continue;
    best = i;
    largest = drawn;
  }
  return static_cast<std::uint16_t>(best);
}

std::size_t Thompson::select(const SelectionInput& input, PolicyState state,
                             std::span<Choice> chosen) const noexcept {
  chosen[0] = {draw(state, input.random)};
  return 1;
}

void Thompson::shares(PolicyState state, std::span<double> shares) const noexcept {
  std::fill(shares.begin(), shares.end(), 0.0);
  for (std::uint64_t seed = 0; seed < kDrawsToDescribe; ++seed) {
    shares[draw(state, seed)] += 1.0 / static_cast<double>(kDrawsToDescribe);
  }
}

}  // namespace clipper
