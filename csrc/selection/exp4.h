// Asks all models and weighs their answers; weights fall exponentially with the losses that their
// models cause: s_i <- s_i exp(-eta L_i). The answer is a vote or a mean (see ballot.h). The floor
// keeps every model within reach of a say (see log_weights.h).
//
// This is Exp4 as Clipper uses it, where every model is asked and so every loss can be known: the
// exponentially weighted forecaster among experts.
//
// Source: Auer, Cesa-Bianchi, Freund, Schapire, SIAM J. Comput. 32, 2002, section 7; Crankshaw et
// al., "Clipper", NSDI 2017, section 5.2; Littlestone and Warmuth, "The Weighted Majority
// Algorithm", 1994.
// Thread safety: as Policy says. State: LogWeights.
#pragma once

#include "selection/ballot.h"
#include "selection/learns_from_failures.h"

namespace clipper {

class Exp4 final : public LearnsFromFailures {
 public:
  /// eta > 0; floor as LogWeights has it. Throws kInvalidArgument.
  Exp4(double eta, double floor, Ballot ballot, float failure_loss = 1.0F);

  [[nodiscard]] std::size_t state_words(std::uint16_t models) const noexcept override {
    return models;
  }
  [[nodiscard]] bool asks_several() const noexcept override { return true; }
  [[nodiscard]] std::size_t select(const SelectionInput& input, PolicyState state,
                                   std::span<Choice> chosen) const noexcept override;
  [[nodiscard]] Combined combine(std::span<const Answer> answers, PolicyState state,
                                 const OutputLayout& layout,
                                 std::byte* output) const noexcept override;
  void observe(std::span<const Observation> observations,
               PolicyState state) const noexcept override;
  void describe(PolicyState state, std::span<Standing> standings) const noexcept override;

 private:
  const double eta_;
  const double log_floor_;
  const Ballot ballot_;
};

}  // namespace clipper
