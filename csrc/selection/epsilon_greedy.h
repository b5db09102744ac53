// Asks the model with the least mean loss, and with probability epsilon any of them.
//
// Source: Sutton and Barto, "Reinforcement Learning", 2nd edition 2018, sections 2.2 and 2.5; first
// in Watkins' thesis, 1989.
// Thread safety: as Policy says.
#pragma once

#include "selection/bandit.h"

namespace clipper {

class EpsilonGreedy final : public MeansBandit {
 public:
  /// epsilon in [0, 1]; memory as ArmMeans has it. Throws kInvalidArgument.
  EpsilonGreedy(double epsilon, double memory, float failure_loss = 1.0F);

 private:
  void shares(PolicyState state, std::span<double> shares) const noexcept override;

  const double epsilon_;
};

}  // namespace clipper
