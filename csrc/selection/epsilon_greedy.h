// Asks the model with the least mean loss, and with probability epsilon any of them.
//
// Source: Sutton and Barto, "Reinforcement Learning", 2nd edition 2018, sections 2.2 and 2.5; first
// in Watkins' thesis, 1989.
// Thread safety: as Policy says. State: ArmMeans.
#pragma once

#include "selection/learns_from_failures.h"

namespace clipper {

class EpsilonGreedy final : public LearnsFromFailures {
 public:
  /// epsilon in [0, 1]; memory as ArmMeans has it. Throws kInvalidArgument.
  EpsilonGreedy(double epsilon, double memory, float failure_loss = 1.0F);

  [[nodiscard]] std::size_t state_words(std::uint16_t models) const noexcept override;
  [[nodiscard]] std::size_t select(const SelectionInput& input, PolicyState state,
                                   std::span<Choice> chosen) const noexcept override;
  [[nodiscard]] Combined combine(std::span<const Answer> answers, PolicyState state,
                                 const OutputLayout& layout,
                                 std::byte* output) const noexcept override;
  void observe(std::span<const Observation> observations,
               PolicyState state) const noexcept override;
  void describe(PolicyState state, std::span<Standing> standings) const noexcept override;

 private:
  void shares(PolicyState state, std::span<double> shares) const noexcept;

  const double epsilon_;
  const double memory_;
};

}  // namespace clipper
