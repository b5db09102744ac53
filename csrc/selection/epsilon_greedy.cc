#include "selection/epsilon_greedy.h"

#include <algorithm>
#include <array>

#include "selection/arm_means.h"
#include "selection/choosing.h"

namespace clipper {

EpsilonGreedy::EpsilonGreedy(double epsilon, double memory, float failure_loss)
    : LearnsFromFailures(failure_loss),
      epsilon_(epsilon),
      memory_(ArmMeans::checked_memory(memory)) {
  if (!(epsilon >= 0.0 && epsilon <= 1.0)) {
    throw Error(ErrorCode::kInvalidArgument, "epsilon must lie in [0, 1]");
  }
}

std::size_t EpsilonGreedy::state_words(std::uint16_t models) const noexcept {
  return ArmMeans::words(models);
}

void EpsilonGreedy::shares(PolicyState state, std::span<double> shares) const noexcept {
  const ArmMeans arms(state, memory_);
  // Nothing known counts as no loss: every model is tried before any is settled on. Equals share.
  double least = 2.0;
  for (std::size_t i = 0; i < arms.models(); ++i) {
    shares[i] = arms.loss(i);
    least = std::min(least, shares[i]);
  }
  double best = 0.0;
  for (std::size_t i = 0; i < arms.models(); ++i) best += shares[i] <= least;
  const double anyway = epsilon_ / static_cast<double>(arms.models());
  for (std::size_t i = 0; i < arms.models(); ++i) {
    shares[i] = anyway + (shares[i] <= least ? (1.0 - epsilon_) / best : 0.0);
  }
}

std::size_t EpsilonGreedy::select(const SelectionInput& input, PolicyState state,
                                  std::span<Choice> chosen) const noexcept {
  std::array<double, kMaxModels> each;
  const auto all = std::span(each).first(input.models);
  shares(state, all);
  const std::uint16_t model = place_of(unit_of(input.random), all);
  chosen[0] = {model, static_cast<float>(each[model])};
  return 1;
}

Combined EpsilonGreedy::combine(std::span<const Answer> answers, PolicyState /*state*/,
                                const OutputLayout& /*layout*/,
                                std::byte* /*output*/) const noexcept {
  return only_answer(answers);
}

void EpsilonGreedy::observe(std::span<const Observation> observations,
                            PolicyState state) const noexcept {
  const ArmMeans arms(state, memory_);
  for (const Observation& observation : observations) arms.observe(observation);
}

void EpsilonGreedy::describe(PolicyState state, std::span<Standing> standings) const noexcept {
  const ArmMeans arms(state, memory_);
  std::array<double, kMaxModels> each;
  shares(state, std::span(each).first(standings.size()));
  for (std::size_t i = 0; i < standings.size(); ++i) {
    standings[i] = {each[i], each[i], arms.loss(i), arms.count(i)};
  }
}

}  // namespace clipper
