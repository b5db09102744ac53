// Random numbers of other shapes than Random's own. Unlike those of <random> they are the same on
// every platform, so that a simulation can be repeated anywhere.
//
// Thread safety: as Random.
#pragma once

#include <cmath>
#include <numbers>

#include "base/random.h"

namespace clipper {

/// Standard normal, by Box and Muller's transform (1958).
[[nodiscard]] inline double draw_normal(Random& random) noexcept {
  const double radius = std::sqrt(random.exponential(2.0));
  return radius * std::cos(2 * std::numbers::pi * random.uniform());
}

/// Gamma of this shape and scale 1, by Marsaglia and Tsang, "A simple method for generating gamma
/// variables", 2000. REQUIRES: shape > 0.
[[nodiscard]] inline double draw_gamma(Random& random, double shape) noexcept {
  if (shape < 1.0) {  // a gamma of shape + 1 times u^(1 / shape)
    return draw_gamma(random, shape + 1) * std::exp(-random.exponential(1.0) / shape);
  }
  const double d = shape - 1.0 / 3;
  const double c = 1 / std::sqrt(9 * d);
  for (;;) {
    const double normal = draw_normal(random);
    const double root = 1 + c * normal;
    if (root <= 0) continue;
    const double v = root * root * root;
    if (-random.exponential(1.0) < normal * normal / 2 + d - d * v + d * std::log(v)) return d * v;
  }
}

}  // namespace clipper
