// Asks the model whose mean reward, plus what is still unsure of it, is largest: with n
// observations, n_i of them of model i, the largest 1 - loss_i + sqrt(2 ln n / n_i). Models of
// which nothing is known come first, at random, so that feedback which is late does not leave them
// to one of their number.
//
// It has no randomness otherwise: choices carry propensity 1 except among the unknown. The bonus
// grows with ln n, so every model is asked again and again, if ever less often: the way back of one
// that has recovered is long unless the memory is finite, which the published form has not.
//
// Source: Auer, Cesa-Bianchi, Fischer, "Finite-time Analysis of the Multiarmed Bandit Problem",
// Machine Learning 47, 2002.
// Thread safety: as Policy says. State: ArmMeans.
#pragma once

#include "selection/learns_from_failures.h"

namespace clipper {

class Ucb1 final : public LearnsFromFailures {
 public:
  /// memory as ArmMeans has it; infinity: as published. Throws kInvalidArgument.
  explicit Ucb1(double memory, float failure_loss = 1.0F);

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

  const double memory_;
};

}  // namespace clipper
