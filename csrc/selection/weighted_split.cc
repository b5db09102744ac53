#include "selection/weighted_split.h"

#include "selection/choosing.h"
#include "selection/shares.h"

namespace clipper {

WeightedSplit::WeightedSplit(const std::vector<double>& weights)
    : shares_(shares_of(weights, "a split")) {}

std::size_t WeightedSplit::select(const SelectionInput& input, PolicyState /*state*/,
                                  std::span<Choice> chosen) const noexcept {
  const std::uint16_t model =
      place_of(unit_of(input.has_context ? input.context : input.random), shares_);
  chosen[0] = {model, static_cast<float>(shares_[model])};
  return 1;
}

Combined WeightedSplit::combine(std::span<const Answer> answers, PolicyState /*state*/,
                                const OutputLayout& /*layout*/,
                                std::byte* /*output*/) const noexcept {
  return only_answer(answers);
}

void WeightedSplit::describe(PolicyState /*state*/, std::span<Standing> standings) const noexcept {
  for (std::size_t i = 0; i < standings.size(); ++i) standings[i] = {shares_[i], shares_[i]};
}

}  // namespace clipper
