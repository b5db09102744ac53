// What policies have in common that ask one model for each query: draw it by the shares that the
// models have at the moment, give its answer as it is.
//
// Thread safety: as Policy says.
#pragma once

#include <span>

#include "selection/arm_means.h"
#include "selection/learns_from_failures.h"

namespace clipper {

class Bandit : public LearnsFromFailures {
 public:
  using LearnsFromFailures::LearnsFromFailures;

  [[nodiscard]] std::size_t select(const SelectionInput& input, PolicyState state,
                                   std::span<Choice> chosen) const noexcept override;
  [[nodiscard]] Combined combine(std::span<const Answer> answers, PolicyState state,
                                 const OutputLayout& layout,
                                 std::byte* output) const noexcept final;

 protected:
  /// With which probability each model is asked now; they add up to 1.
  virtual void shares(PolicyState state, std::span<double> shares) const noexcept = 0;
};

/// One that learns each model's mean loss. State: ArmMeans.
class MeansBandit : public Bandit {
 public:
  /// memory as ArmMeans has it. Throws kInvalidArgument.
  MeansBandit(double memory, float failure_loss)
      : Bandit(failure_loss), memory_(ArmMeans::checked_memory(memory)) {}

  [[nodiscard]] std::size_t state_words(std::uint16_t models) const noexcept final {
    return ArmMeans::words(models);
  }
  void observe(std::span<const Observation> observations, PolicyState state) const noexcept final;
  void describe(PolicyState state, std::span<Standing> standings) const noexcept final;

 protected:
  [[nodiscard]] ArmMeans means(PolicyState state) const noexcept { return {state, memory_}; }

 private:
  const double memory_;
};

}  // namespace clipper
