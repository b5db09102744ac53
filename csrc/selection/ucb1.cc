#include "selection/ucb1.h"

#include <array>
#include <cmath>

#include "selection/arm_means.h"
#include "selection/choosing.h"

namespace clipper {

Ucb1::Ucb1(double memory, float failure_loss)
    : LearnsFromFailures(failure_loss), memory_(ArmMeans::checked_memory(memory)) {}

std::size_t Ucb1::state_words(std::uint16_t models) const noexcept {
  return ArmMeans::words(models);
}

void Ucb1::shares(PolicyState state, std::span<double> shares) const noexcept {
  const ArmMeans arms(state, memory_);
  double total = 0.0;
  double unknown = 0.0;
  for (std::size_t i = 0; i < arms.models(); ++i) {
    const double count = arms.count(i);
    total += count;
    unknown += count <= 0.0;
  }
  if (unknown > 0.0) {
    for (std::size_t i = 0; i < arms.models(); ++i) {
      shares[i] = arms.count(i) <= 0.0 ? 1.0 / unknown : 0.0;
    }
    return;
  }
  const double width = 2.0 * std::log(total);
  std::size_t best = 0;
  double bound_of_best = -1.0;
  for (std::size_t i = 0; i < arms.models(); ++i) {
    const double bound = 1.0 - arms.loss(i) + std::sqrt(width / arms.weight(i));
    shares[i] = 0.0;
    if (bound <= bound_of_best) continue;
    best = i;
    bound_of_best = bound;
  }
  shares[best] = 1.0;
}

std::size_t Ucb1::select(const SelectionInput& input, PolicyState state,
                         std::span<Choice> chosen) const noexcept {
  std::array<double, kMaxModels> each;
  const auto all = std::span(each).first(input.models);
  shares(state, all);
  const std::uint16_t model = place_of(unit_of(input.random), all);
  chosen[0] = {model, static_cast<float>(each[model])};
  return 1;
}

Combined Ucb1::combine(std::span<const Answer> answers, PolicyState /*state*/,
                       const OutputLayout& /*layout*/, std::byte* /*output*/) const noexcept {
  return only_answer(answers);
}

void Ucb1::observe(std::span<const Observation> observations, PolicyState state) const noexcept {
  const ArmMeans arms(state, memory_);
  for (const Observation& observation : observations) arms.observe(observation);
}

void Ucb1::describe(PolicyState state, std::span<Standing> standings) const noexcept {
  const ArmMeans arms(state, memory_);
  std::array<double, kMaxModels> each;
  shares(state, std::span(each).first(standings.size()));
  for (std::size_t i = 0; i < standings.size(); ++i) {
    standings[i] = {each[i], each[i], arms.loss(i), arms.count(i)};
  }
}

}  // namespace clipper
