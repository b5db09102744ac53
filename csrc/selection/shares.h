// Weights that somebody gave, as shares that add up to 1.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "base/errors.h"

namespace clipper {

/// Throws kInvalidArgument unless every weight is finite and >= 0 and one is positive. `of`: whose
/// weights these are, for the message.
[[nodiscard]] inline std::vector<double> shares_of(std::vector<double> weights,
                                                   const std::string& of) {
  double total = 0.0;
  for (const double weight : weights) {
    if (!std::isfinite(weight) || weight < 0.0) {
      throw Error(ErrorCode::kInvalidArgument, "the weights of " + of + " must be finite and >= 0");
    }
    total += weight;
  }
  if (total <= 0.0 || !std::isfinite(total)) {
    throw Error(ErrorCode::kInvalidArgument, "one weight of " + of + " must be positive");
  }
  for (double& weight : weights) weight /= total;
  return weights;
}

}  // namespace clipper
