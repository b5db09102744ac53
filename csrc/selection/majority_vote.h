// Asks every model and answers what most of them say; the confidence is the share of the models
// asked that agree, so a model that is missing costs confidence. Ties go to the model that is
// listed first.
//
// Source: Crankshaw et al., "Clipper", NSDI 2017, section 5.2 (ensembles, confidence by agreement).
// Thread safety: immutable.
#pragma once

#include "selection/policy.h"

namespace clipper {

class MajorityVote final : public Policy {
 public:
  [[nodiscard]] bool asks_several() const noexcept override { return true; }
  [[nodiscard]] std::size_t select(const SelectionInput& input, PolicyState state,
                                   std::span<Choice> chosen) const noexcept override;
  [[nodiscard]] Combined combine(std::span<const Answer> answers, PolicyState state,
                                 const OutputLayout& layout,
                                 std::byte* output) const noexcept override;
  void describe(PolicyState state, std::span<Standing> standings) const noexcept override;
};

}  // namespace clipper
