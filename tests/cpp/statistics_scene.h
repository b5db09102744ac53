// Rows of numbers, and samples of populations, for the tests of statistics.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "base/random.h"
#include "base/tensor.h"

namespace clipper::testing {

inline constexpr DType kInt64{DTypeCode::kInt, 64};
inline constexpr DType kFloat32{DTypeCode::kFloat, 32};

template <typename Number>
ColumnRows rows_of(const std::vector<Number>& numbers) {
  return {reinterpret_cast<const std::byte*>(numbers.data())};
}

/// Draws cells with these weights.
inline std::uint32_t draw(Random& random, const std::vector<double>& weights) {
  double point = random.uniform() * std::accumulate(weights.begin(), weights.end(), 0.0);
  for (std::uint32_t i = 0; i < weights.size(); ++i) {
    if ((point -= weights[i]) < 0) return i;
  }
  return static_cast<std::uint32_t>(weights.size() - 1);
}

inline std::vector<std::uint32_t> sample(Random& random, const std::vector<double>& weights,
                                         int draws) {
  std::vector<std::uint32_t> counts(weights.size());
  for (int i = 0; i < draws; ++i) ++counts[draw(random, weights)];
  return counts;
}

}  // namespace clipper::testing
