// Asks one model, drawn by weights that fall exponentially with the losses that the models cause.
//
// Model i is asked with probability p_i = (1 - gamma) s_i / sum(s) + gamma / k, and a loss L of it
// makes s_i <- s_i exp(-eta L / p_i): dividing by the propensity makes up for how seldom a model is
// asked. With gamma 0 these are the updates of Clipper's paper. The uniform part keeps every model
// alive and bounds the step; the floor bounds the way back (see log_weights.h).
//
// Source: Auer, Cesa-Bianchi, Freund, Schapire, "The Nonstochastic Multiarmed Bandit Problem", SIAM
// J. Comput. 32, 2002; Crankshaw et al., "Clipper", NSDI 2017, section 5.1.
// Thread safety: as Policy says. State: LogWeights.
#pragma once

#include "selection/bandit.h"

namespace clipper {

class Exp3 final : public Bandit {
 public:
  /// eta > 0; gamma in [0, 1]; floor as LogWeights has it. Throws kInvalidArgument.
  Exp3(double eta, double gamma, double floor, float failure_loss = 1.0F);

  [[nodiscard]] std::size_t state_words(std::uint16_t models) const noexcept override {
    return models;
  }
  void observe(std::span<const Observation> observations,
               PolicyState state) const noexcept override;
  void describe(PolicyState state, std::span<Standing> standings) const noexcept override;

 private:
  void shares(PolicyState state, std::span<double> shares) const noexcept override;

  const double eta_;
  const double gamma_;
  const double log_floor_;
};

}  // namespace clipper
