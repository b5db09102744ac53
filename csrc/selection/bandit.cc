#include "selection/bandit.h"

#include <array>

#include "selection/choosing.h"

namespace clipper {

std::size_t Bandit::select(const SelectionInput& input, PolicyState state,
                           std::span<Choice> chosen) const noexcept {
  std::array<double, kMaxModels> each;
  const auto all = std::span(each).first(input.models);
  shares(state, all);
  const std::uint16_t model = place_of(unit_of(input.random), all);
  chosen[0] = {model, static_cast<float>(each[model])};
  return 1;
}

Combined Bandit::combine(std::span<const Answer> answers, PolicyState /*state*/,
                         const OutputLayout& /*layout*/, std::byte* /*output*/) const noexcept {
  return only_answer(answers);
}

void MeansBandit::observe(std::span<const Observation> observations,
                          PolicyState state) const noexcept {
  const ArmMeans arms = means(state);
  for (const Observation& observation : observations) arms.observe(observation);
}

void MeansBandit::describe(PolicyState state, std::span<Standing> standings) const noexcept {
  const ArmMeans arms = means(state);
  std::array<double, kMaxModels> each;
  shares(state, std::span(each).first(standings.size()));
  for (std::size_t i = 0; i < standings.size(); ++i) {
    standings[i] = {each[i], each[i], arms.loss(i), arms.count(i)};
  }
}

}  // namespace clipper
