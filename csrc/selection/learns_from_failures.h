// What learning policies have in common: a model that was asked and gave no answer has cost the
// caller one, feedback or not.
//
// Thread safety: immutable.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "base/errors.h"
#include "selection/policy.h"

namespace clipper {

/// For policies to which failures say nothing.
inline constexpr float kNoFailureLoss = std::numeric_limits<float>::quiet_NaN();

/// Whether a model that ended so has let its caller down. Low confidence is the models' together,
/// and a query that its caller withdrew says nothing about whom it asked.
[[nodiscard]] constexpr bool is_failure(Cause cause) noexcept {
  return cause != Cause::kNone && cause != Cause::kCancelled && cause != Cause::kLowConfidence;
}

/// A loss as policies count it, in [0, 1]. Not a number: nothing was said; check with std::isnan.
[[nodiscard]] inline double bounded_loss(float loss) noexcept {
  return std::isnan(loss) ? static_cast<double>(loss)
                          : std::clamp(static_cast<double>(loss), 0.0, 1.0);
}

class LearnsFromFailures : public Policy {
 public:
  /// What a failure counts as, in [0, 1], or kNoFailureLoss.
  explicit LearnsFromFailures(float failure_loss);

  [[nodiscard]] bool watch(std::span<const Service> services,
                           PolicyState state) const noexcept final;
  [[nodiscard]] bool watches() const noexcept final { return !std::isnan(failure_loss_); }

 private:
  const float failure_loss_;
};

}  // namespace clipper
