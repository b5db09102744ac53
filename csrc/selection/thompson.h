// Asks each model as often as it is probably the best: draws a mean reward for every model from
// what is believed of it, a Beta distribution, and asks the model with the largest draw.
//
// A loss in [0, 1] counts as that fraction of a failure, and the rest as success: Beta(1 + n (1 -
// loss), 1 + n loss) after n observations. (Agrawal and Goyal round each loss to 0 or 1 at random
// instead, which has the same mean and more variance, and needs randomness at feedback.)
// The probability of a choice has no closed form: choices carry 1, and feedback does not need it.
//
// Source: Thompson, Biometrika 25, 1933; Agrawal and Goyal, "Analysis of Thompson Sampling for the
// Multi-armed Bandit Problem", COLT 2012; the memory: Gupta, Granmo, Agrawala, ICMLA 2011.
// Thread safety: as Policy says.
#pragma once

#include "selection/bandit.h"

namespace clipper {

class Thompson final : public MeansBandit {
 public:
  /// memory as ArmMeans has it. Throws kInvalidArgument.
  explicit Thompson(double memory, float failure_loss = 1.0F);

  [[nodiscard]] std::size_t select(const SelectionInput& input, PolicyState state,
                                   std::span<Choice> chosen) const noexcept override;

 private:
  /// Estimated from draws of its own, the same ones at every call.
  void shares(PolicyState state, std::span<double> shares) const noexcept override;
  [[nodiscard]] std::uint16_t draw(PolicyState state, std::uint64_t seed) const noexcept;
};

}  // namespace clipper
