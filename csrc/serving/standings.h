// What an application's policy makes of its models now, for operators.
//
// Thread safety: all of it.
#pragma once

#include <cstdint>
#include <vector>

#include "selection/canary.h"
#include "selection/context_table.h"
#include "selection/policy.h"
#include "serving/application.h"
#include "serving/query.h"

namespace clipper {

/// One for each linked model, by what was learned of `context`, or without one (nullptr) of the
/// application. Empty: a plan says who is asked. Throws std::bad_alloc.
[[nodiscard]] inline std::vector<Standing> standings_of(Application& application,
                                                        const std::uint64_t* context) {
  if (application.plan != nullptr) return {};
  std::vector<Standing> standings(application.models.size());
  if (application.policy == nullptr) {
    standings.front().weight = 1.0;
    return standings;
  }
  const bool is_own = context == nullptr || !application.policy->learns_by_context();
  const ContextPin pin =
      is_own ? ContextPin(application.contexts->own()) : application.contexts->look(*context);
  application.policy->describe(pin.state(), standings);
  return standings;
}

/// The same by the state that a query goes by. REQUIRES: it has a policy.
[[nodiscard]] inline std::vector<Standing> standings_of(const Query& query) {
  std::vector<Standing> standings(query.application->models.size());
  query.application->policy->describe(query.context.state(), standings);
  return standings;
}

/// nullptr: the application's policy is none.
[[nodiscard]] inline const Canary* canary_of(const Application& application) noexcept {
  return dynamic_cast<const Canary*>(application.policy.get());
}
[[nodiscard]] inline bool has_withdrawn_canary(Application& application) noexcept {
  return canary_of(application) != nullptr && Canary::is_withdrawn(application.contexts->own());
}
/// The new model gets its share again, and all counts begin anew. REQUIRES: it has a canary.
inline void restart_canary(Application& application) noexcept {
  canary_of(application)->begin(application.contexts->own());
}

}  // namespace clipper
