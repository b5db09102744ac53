#include "selection/learns_from_failures.h"

namespace clipper {

LearnsFromFailures::LearnsFromFailures(float failure_loss) : failure_loss_(failure_loss) {
  if (failure_loss < 0.0F || failure_loss > 1.0F) {
    throw Error(ErrorCode::kInvalidArgument, "the loss of a failure must lie in [0, 1]");
  }
}

bool LearnsFromFailures::watch(std::span<const Service> services,
                               PolicyState state) const noexcept {
  if (!watches()) return false;
  for (const Service& service : services) {
    if (!is_failure(service.cause)) continue;
    const Observation failed{service.model, failure_loss_, service.propensity};
    observe({&failed, 1}, state);
  }
  return false;
}

}  // namespace clipper
