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
// Thread safety: as Policy says.
#pragma once

#include "selection/bandit.h"

namespace clipper {

class Ucb1 final : public MeansBandit {
 public:
  /// memory as ArmMeans has it; infinity: as published. Throws kInvalidArgument.
  explicit Ucb1(double memory, float failure_loss = 1.0F);

 private:
  void shares(PolicyState state, std::span<double> shares) const noexcept override;
};

}  // namespace clipper
