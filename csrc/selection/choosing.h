// Small steps that several policies take: random bits to a point, a point to a model.
//
// Thread safety: pure functions.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "selection/policy.h"

namespace clipper {

/// In [0, 1), evenly spaced by 2^-53.
[[nodiscard]] inline double unit_of(std::uint64_t bits) noexcept {
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

/// The place where `point` falls among `shares`, which add up to 1 and are laid end to end from 0.
/// REQUIRES: !shares.empty(). Never one whose share is 0, unless all are.
[[nodiscard]] inline std::uint16_t place_of(double point, std::span<const double> shares) noexcept {
  std::size_t last = 0;  // rounding may leave the point behind the end
  for (std::size_t i = 0; i < shares.size(); ++i) {
    if (shares[i] <= 0.0) continue;
    last = i;
    if (point < shares[i]) break;
    point -= shares[i];
  }
  return static_cast<std::uint16_t>(last);
}

/// Writes the `most` places with the largest positive weight to `chosen`, in the order of their
/// places, and returns how many: >= 1. Among equals the first.
[[nodiscard]] inline std::size_t choose_heaviest(std::span<const double> weights, std::size_t most,
                                                 std::span<Choice> chosen) noexcept {
  std::array<bool, kMaxModels> is_chosen{};
  const std::size_t wanted = std::clamp<std::size_t>(most, 1, weights.size());
  for (std::size_t round = 0; round < wanted; ++round) {
    std::size_t best = weights.size();
    for (std::size_t i = 0; i < weights.size(); ++i) {
      if (is_chosen[i] || (weights[i] <= 0.0 && round > 0)) continue;
      if (best == weights.size() || weights[i] > weights[best]) best = i;
    }
    if (best == weights.size()) break;
    is_chosen[best] = true;
  }
  std::size_t count = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (is_chosen[i]) chosen[count++] = {static_cast<std::uint16_t>(i)};
  }
  return count;
}

/// What policies that ask one model make of its answer.
[[nodiscard]] inline Combined only_answer(std::span<const Answer> answers) noexcept {
  for (std::size_t i = 0; i < answers.size(); ++i) {
    if (answers[i].output != nullptr) return {true, i, 1.0F};
  }
  return {};
}

}  // namespace clipper
