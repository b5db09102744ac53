// Asks every model that has a weight and combines their answers with these weights, which never
// change: a vote or a mean (see ballot.h).
//
// Thread safety: immutable.
#pragma once

#include <vector>

#include "selection/ballot.h"
#include "selection/policy.h"

namespace clipper {

class WeightedEnsemble final : public Policy {
 public:
  /// One weight a model, in the application's order. Throws kInvalidArgument unless every weight is
  /// finite and >= 0 and one is positive.
  WeightedEnsemble(const std::vector<double>& weights, Ballot ballot);

  [[nodiscard]] bool asks_several() const noexcept override { return true; }
  [[nodiscard]] std::size_t select(const SelectionInput& input, PolicyState state,
                                   std::span<Choice> chosen) const noexcept override;
  [[nodiscard]] Combined combine(std::span<const Answer> answers, PolicyState state,
                                 const OutputLayout& layout,
                                 std::byte* output) const noexcept override;
  void describe(PolicyState state, std::span<Standing> standings) const noexcept override;

 private:
  const std::vector<double> shares_;
  const Ballot ballot_;
};

}  // namespace clipper
