#include "selection/weighted_split.h"

#include <algorithm>
#include <cmath>

#include "base/errors.h"

namespace clipper {

WeightedSplit::WeightedSplit(const std::vector<double>& weights) {
  double total = 0.0;
  for (const double weight : weights) {
    if (!std::isfinite(weight) || weight < 0.0) {
      throw Error(ErrorCode::kInvalidArgument, "the weights of a split must be finite and >= 0");
    }
    total += weight;
    cumulative_.push_back(total);
  }
  if (total <= 0.0 || !std::isfinite(total)) {
    throw Error(ErrorCode::kInvalidArgument, "one weight of a split must be positive");
  }
  for (double& share : cumulative_) share /= total;
}

std::size_t WeightedSplit::select(const SelectionInput& input, PolicyState /*state*/,
                                  std::span<Choice> chosen) const noexcept {
  const std::uint64_t bits = input.has_context ? input.context : input.random;
  const double point = static_cast<double>(bits >> 11) * 0x1.0p-53;  // in [0, 1)
  const auto place = std::upper_bound(cumulative_.begin(), cumulative_.end(), point);
  const auto last = static_cast<std::ptrdiff_t>(cumulative_.size()) - 1;
  const std::ptrdiff_t model = std::min(place - cumulative_.begin(), last);
  const double before = model == 0 ? 0.0 : cumulative_[static_cast<std::size_t>(model) - 1];
  const double share = cumulative_[static_cast<std::size_t>(model)] - before;
  chosen[0] = {static_cast<std::uint16_t>(model), static_cast<float>(share)};
  return 1;
}

Combined WeightedSplit::combine(std::span<const Answer> answers, PolicyState /*state*/,
                                const OutputLayout& /*layout*/,
                                std::byte* /*output*/) const noexcept {
  for (std::size_t i = 0; i < answers.size(); ++i) {
    if (answers[i].output != nullptr) return {true, i, 1.0F};
  }
  return {};
}

}  // namespace clipper
