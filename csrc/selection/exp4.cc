#include "selection/exp4.h"

#include <array>
#include <cmath>
#include <utility>

#include "selection/choosing.h"
#include "selection/log_weights.h"

namespace clipper {

Exp4::Exp4(double eta, double floor, Ballot ballot, float failure_loss)
    : LearnsFromFailures(failure_loss),
      eta_(eta),
      log_floor_(std::log(LogWeights::checked_floor(floor))),
      ballot_(std::move(ballot)) {
  if (!(eta > 0.0 && std::isfinite(eta))) {
    throw Error(ErrorCode::kInvalidArgument, "eta must be positive and finite");
  }
}

std::size_t Exp4::select(const SelectionInput& input, PolicyState state,
                         std::span<Choice> chosen) const noexcept {
  if (input.most >= input.models) {
    for (std::uint16_t model = 0; model < input.models; ++model) chosen[model] = {model};
    return input.models;
  }
  std::array<double, kMaxModels> weights;
  const auto all = std::span(weights).first(input.models);
  LogWeights(state, log_floor_).shares(all);
  return choose_heaviest(all, input.most, chosen);
}

Combined Exp4::combine(std::span<const Answer> answers, PolicyState state,
                       const OutputLayout& layout, std::byte* output) const noexcept {
  std::array<double, kMaxModels> weights;
  const auto all = std::span(weights).first(state.size());
  LogWeights(state, log_floor_).shares(all);
  return ballot_.count(answers, all, layout, output);
}

void Exp4::observe(std::span<const Observation> observations, PolicyState state) const noexcept {
  const LogWeights weights(state, log_floor_);
  for (const Observation& observation : observations) {
    const double loss = bounded_loss(observation.loss);
    if (std::isnan(loss) || loss <= 0.0 || observation.model >= state.size()) continue;
    weights.lower(observation.model, eta_ * loss);
  }
}

void Exp4::describe(PolicyState state, std::span<Standing> standings) const noexcept {
  std::array<double, kMaxModels> weights;
  LogWeights(state, log_floor_).shares(std::span(weights).first(standings.size()));
  for (std::size_t i = 0; i < standings.size(); ++i) standings[i] = {1.0, weights[i]};
}

}  // namespace clipper
