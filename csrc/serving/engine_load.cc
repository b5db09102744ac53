// What ensembles do under load: they ask fewer models, and those that they trust least go first.
#include <algorithm>
#include <cmath>
#include <limits>

#include "batching/batches.h"
#include "serving/engine.h"

namespace clipper {
namespace {

// Shares of the time that a query can wait: up to the first, waiting is no load; from the second on
// the fewest are asked, for what is felt later comes on top.
constexpr double kCalm = 0.25;
constexpr double kFull = 0.5;

}  // namespace

/// A batch in flight counts as far as it takes longer than these rows would by themselves: that one
/// is there says nothing of load, that it is long does.
double Deployment::pressure(Nanos now_ns, std::uint32_t rows, Nanos answer_by_ns,
                            Priority priority) const noexcept {
  if (answer_by_ns == kNever || !has_available_replica(now_ns)) return 0.0;
  const Nanos slack_ns = answer_by_ns - now_ns;
  const std::uint32_t ahead = rows_before(answer_by_ns, priority);
  double least = std::numeric_limits<double>::infinity();
  for (const auto& replica : replicas_) {
    if (replica->available_at_ns() > now_ns) continue;
    const Controller& controller = replica->controller(0);
    if (!controller.is_warm()) return 0.0;
    const Nanos own_ns = controller.run_bound_ns(rows);
    const Nanos busy_ns =
        std::max<Nanos>(time_between(now_ns, replica->expected_free_at_ns(now_ns)) - own_ns, 0);
    const Nanos wait_ns = saturating_add(busy_ns, controller.run_bound_ns(ahead + rows) - own_ns);
    if (wait_ns <= 0) return 0.0;
    const auto spare_ns = static_cast<double>(slack_ns - own_ns);
    if (spare_ns > 0) least = std::min(least, static_cast<double>(wait_ns) / spare_ns);
  }
  return least;
}

/// All of them while the busiest model leaves time; then one less after the other. It need not be
/// one that is asked: models are taken to share what they run on, so that what the least trusted
/// are spared, the others get.
std::uint16_t Engine::most_asks_under_load(const Query& query) noexcept {
  Application& application = *query.application;
  double most = 0.0;
  for (const Model* model : application.models) {
    const Deployment* deployment = model->current();
    if (deployment == nullptr || deployment->is_closed()) continue;
    most = std::max(most, deployment->pressure(query.arrived_ns, query.rows, query.answer_by_ns,
                                               query.priority));
  }
  const auto models = static_cast<std::uint16_t>(application.models.size());
  const std::uint16_t fewest = std::min(application.fewest_asks, models);
  const double left = std::clamp((kFull - most) / (kFull - kCalm), 0.0, 1.0);
  const auto wanted = static_cast<std::uint16_t>(fewest + left * (models - fewest));
  const std::uint16_t asks = application.ask_limit.next(wanted, models, query.arrived_ns,
                                                        query.deadline_ns - query.arrived_ns);
  if (asks < models) {
    application.asks_spared.fetch_add(static_cast<std::uint64_t>(models - asks),
                                      std::memory_order_relaxed);
  }
  return asks;
}

}  // namespace clipper
