#include "selection/weighted_ensemble.h"

#include <utility>

#include "selection/choosing.h"
#include "selection/shares.h"

namespace clipper {

WeightedEnsemble::WeightedEnsemble(const std::vector<double>& weights, Ballot ballot)
    : shares_(shares_of(weights, "an ensemble")), ballot_(std::move(ballot)) {}

std::size_t WeightedEnsemble::select(const SelectionInput& input, PolicyState /*state*/,
                                     std::span<Choice> chosen) const noexcept {
  return choose_heaviest(shares_, input.most, chosen);
}

Combined WeightedEnsemble::combine(std::span<const Answer> answers, PolicyState /*state*/,
                                   const OutputLayout& layout, std::byte* output) const noexcept {
  return ballot_.count(answers, shares_, layout, output);
}

void WeightedEnsemble::describe(PolicyState /*state*/,
                                std::span<Standing> standings) const noexcept {
  for (std::size_t i = 0; i < standings.size(); ++i) {
    standings[i] = {shares_[i] > 0.0 ? 1.0 : 0.0, shares_[i]};
  }
}

}  // namespace clipper
