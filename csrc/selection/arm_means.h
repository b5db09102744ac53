// How often each model was observed, and its mean loss: what the simple bandits learn.
//
// With a memory of M, an observation weighs 1/n while n <= M observations are known and 1/M from
// then on, so that what is long past fades: a model that has recovered is seen to. The Beta
// distribution of Thompson sampling is another reading of the same two numbers, and the step 1/M
// its dynamic form (Gupta, Granmo, Agrawala, "Thompson Sampling for Dynamic Multi-Armed Bandits",
// ICMLA 2011).
//
// Thread safety: all of it. Counts are exact; so are sums as long as nothing fades, up to rounding.
// State: for each model its count and the sum of its losses.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "base/errors.h"
#include "selection/learns_from_failures.h"
#include "selection/policy.h"

namespace clipper {

class ArmMeans {
 public:
  [[nodiscard]] static std::size_t words(std::uint16_t models) noexcept {
    return 2 * std::size_t{models};
  }
  /// Throws kInvalidArgument unless `memory` can be used. Infinity: nothing fades.
  static double checked_memory(double memory) {
    if (!(memory >= 1.0)) {
      throw Error(ErrorCode::kInvalidArgument, "a memory must be at least one observation");
    }
    return memory;
  }

  ArmMeans(PolicyState state, double memory) noexcept : state_(state), memory_(memory) {}

  [[nodiscard]] std::size_t models() const noexcept { return state_.size() / 2; }
  /// How often the model was observed, ever.
  [[nodiscard]] double count(std::size_t model) const noexcept {
    return state_[2 * model].load(std::memory_order_relaxed);
  }
  /// How many observations the mean stands for.
  [[nodiscard]] double weight(std::size_t model) const noexcept {
    return std::min(count(model), memory_);
  }
  /// Mean loss, in [0, 1]; 0 for a model of which nothing is known.
  [[nodiscard]] double loss(std::size_t model) const noexcept {
    const double known = weight(model);
    if (known <= 0.0) return 0.0;
    // An observation under way may be in the sum and not in the count.
    return std::clamp(state_[2 * model + 1].load(std::memory_order_relaxed) / known, 0.0, 1.0);
  }

  void observe(const Observation& observation) const noexcept {
    const double loss = bounded_loss(observation.loss);
    if (std::isnan(loss) || observation.model >= models()) return;
    const std::size_t at = 2 * std::size_t{observation.model};
    const double known = state_[at].fetch_add(1.0, std::memory_order_relaxed);
    std::atomic<double>& sum = state_[at + 1];
    if (known + 1.0 <= memory_) {
      sum.fetch_add(loss, std::memory_order_relaxed);
      return;
    }
    double seen = sum.load(std::memory_order_relaxed);
    while (
        !sum.compare_exchange_weak(seen, seen - seen / memory_ + loss, std::memory_order_relaxed)) {
    }
  }

 private:
  PolicyState state_;
  double memory_;
};

}  // namespace clipper
