// Sends each query to one model, chosen with fixed probabilities: one model alone, A/B tests.
// A query with a context always goes where its context goes.
//
// Thread safety: immutable.
#pragma once

#include <vector>

#include "selection/policy.h"

namespace clipper {

class WeightedSplit final : public Policy {
 public:
  /// One weight a model, in the application's order. Throws kInvalidArgument unless every weight is
  /// finite and >= 0 and one is positive.
  explicit WeightedSplit(const std::vector<double>& weights);

  [[nodiscard]] std::size_t select(const SelectionInput& input, PolicyState state,
                                   std::span<Choice> chosen) const noexcept override;
  [[nodiscard]] Combined combine(std::span<const Answer> answers, PolicyState state,
                                 const OutputLayout& layout,
                                 std::byte* output) const noexcept override;
  void describe(PolicyState state, std::span<Standing> standings) const noexcept override;

 private:
  const std::vector<double> shares_;
};

}  // namespace clipper
