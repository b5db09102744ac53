#include "selection/exp3.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "selection/log_weights.h"

namespace clipper {

Exp3::Exp3(double eta, double gamma, double floor, float failure_loss)
    : Bandit(failure_loss),
      eta_(eta),
      gamma_(gamma),
      log_floor_(std::log(LogWeights::checked_floor(floor))) {
  if (!(eta > 0.0 && std::isfinite(eta))) {
    throw Error(ErrorCode::kInvalidArgument, "eta must be positive and finite");
  }
  if (!(gamma >= 0.0 && gamma <= 1.0)) {
    throw Error(ErrorCode::kInvalidArgument, "gamma must lie in [0, 1]");
  }
}

void Exp3::shares(PolicyState state, std::span<double> shares) const noexcept {
  LogWeights(state, log_floor_).shares(shares);
  const double anyway = gamma_ / static_cast<double>(shares.size());
  for (double& share : shares) share = (1.0 - gamma_) * share + anyway;
}

void Exp3::observe(std::span<const Observation> observations, PolicyState state) const noexcept {
  const LogWeights weights(state, log_floor_);
  for (const Observation& observation : observations) {
    const double loss = bounded_loss(observation.loss);
    if (std::isnan(loss) || loss <= 0.0 || observation.model >= state.size()) continue;
    // A float may have rounded the smallest propensities to 0; the floor ends what grows too large.
    const double propensity = std::max(static_cast<double>(observation.propensity), 1e-38);
    weights.lower(observation.model, eta_ * loss / propensity);
  }
}

void Exp3::describe(PolicyState state, std::span<Standing> standings) const noexcept {
  std::array<double, kMaxModels> each;
  const auto all = std::span(each).first(standings.size());
  LogWeights(state, log_floor_).shares(all);
  for (std::size_t i = 0; i < standings.size(); ++i) standings[i].weight = each[i];
  shares(state, all);
  for (std::size_t i = 0; i < standings.size(); ++i) standings[i].share = each[i];
}

}  // namespace clipper
