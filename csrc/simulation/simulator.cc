#include "simulation/simulator.h"

#include <algorithm>
#include <cstring>
#include <tuple>
#include <utility>

namespace clipper {
namespace {

/// The row of a query, and what every model makes of it.
std::int64_t row_of(std::uint64_t query_number, std::uint32_t row) {
  return static_cast<std::int64_t>((query_number << 12) + row);
}
std::int64_t answer_to(std::int64_t row) { return 3 * row + 1; }

// The number of its first row and the load it belongs to travel with a query as its owner.
constexpr int kLoadBits = 16;
void* as_owner(std::uint64_t query_number, std::uint32_t load) {
  return reinterpret_cast<void*>((query_number << kLoadBits) | load);
}
std::uint64_t number_of(const Query& query) {
  return reinterpret_cast<std::uint64_t>(query.owner) >> kLoadBits;
}
std::uint32_t load_of(const Query& query) {
  return reinterpret_cast<std::uint64_t>(query.owner) & ((1U << kLoadBits) - 1);
}

/// A driver's index travels with its replica.
void* as_owner(std::uint32_t driver_index) {
  return reinterpret_cast<void*>(std::uint64_t{driver_index});
}
std::uint32_t driver_of(const Replica& replica) {
  return static_cast<std::uint32_t>(reinterpret_cast<std::uint64_t>(replica.owner));
}

}  // namespace

bool Simulator::Event::operator>(const Event& other) const noexcept {
  return std::tie(at_ns, what, order) > std::tie(other.at_ns, other.what, other.order);
}

// Nobody takes time to wake up here, so nothing is held in reserve for it.
Simulator::Simulator(std::uint64_t seed) : engine_(clock_, seed, 0), random_(seed) {
  box_.set_awake(true);
}

Model& Simulator::deploy(std::string name, std::vector<SimulatedReplica> replicas,
                         DeploymentOptions options) {
  options.input = {{DTypeCode::kInt, 64}, {}};
  options.output = options.input;
  Deployment& deployment = engine_.add_deployment(std::move(options));
  for (SimulatedReplica& made : replicas) {
    Replica& replica = deployment.add_replica(std::move(made.controller));
    replica.owner = as_owner(static_cast<std::uint32_t>(drivers_.size()));
    drivers_.push_back({std::move(made.model), &replica});
  }
  deployments_.push_back(&deployment);
  Model& model = engine_.add_model(std::move(name));
  model.set_current(&deployment);
  return model;
}

void Simulator::add_load(SimulatedLoad load) {
  const auto index = static_cast<std::uint32_t>(loads_.size());
  if (load.budget_ns == 0) load.budget_ns = load.application->slo_ns;
  has_stages_ = has_stages_ || load.application->plan != nullptr;
  loads_.push_back(std::move(load));
  schedule(loads_[index].arrivals(), What::kArrival, index);
}

void Simulator::at(Nanos at_ns, std::function<void()> action) {
  actions_.push_back(std::move(action));
  schedule(at_ns, What::kAction, static_cast<std::uint32_t>(actions_.size() - 1));
}

void Simulator::schedule(Nanos at_ns, What what, std::uint32_t index, std::uint32_t generation) {
  if (at_ns != kNever) events_.push({at_ns, what, index, generation, scheduled_++});
}

void Simulator::run(Nanos until_ns) {
  for (;;) {
    const Nanos event_ns = events_.empty() ? kNever : events_.top().at_ns;
    const Nanos reap_ns = engine_.next_reap_ns();
    const Nanos next_ns = std::min(event_ns, reap_ns);
    if (next_ns == kNever || next_ns > until_ns) return;
    clock_.set(std::max(next_ns, clock_.now_ns()));
    if (event_ns <= reap_ns) {  // what ends at its deadline has made it
      const Event event = events_.top();
      events_.pop();
      happen(event);
    } else {
      engine_.reap();
    }
    // Rows that went on to another stage wait there.
    for (std::size_t i = 0; has_stages_ && i < deployments_.size(); ++i) {
      wake_a_driver(*deployments_[i]);
    }
    collect_answers();
  }
}

void Simulator::happen(const Event& event) {
  switch (event.what) {
    case What::kRunEnds:
      end_run(event.index);
      break;
    case What::kAction:
      actions_[event.index]();
      break;
    case What::kArrival:
      arrive(event.index);
      break;
    case What::kCancel: {
      Query& query = engine_.queries().at(event.index);
      // Whether it has ended, and its place holds another one by now, is for its phase to say.
      if (query.generation == event.generation && !query.is_done()) {
        engine_.withdraw(query, Cause::kCancelled);
      }
      break;
    }
    case What::kRetry:
      if (drivers_[event.index].retry_at_ns == event.at_ns) try_to_run(event.index);
      break;
  }
}

void Simulator::arrive(std::uint32_t load_index) {
  const SimulatedLoad& load = loads_[load_index];
  const std::uint64_t number = ++submitted_;
  const std::uint64_t asked =
      load.different_queries == 0 ? number : 1 + random_.below(load.different_queries);
  rows_.resize(load.rows);
  for (std::uint32_t row = 0; row < load.rows; ++row) rows_[row] = row_of(asked, row);
  Asking asking;
  asking.budget_ns = load.budget_ns;
  asking.priority = load.priority;
  asking.mailbox = &box_;
  asking.owner = as_owner(asked, load_index);
  Refusal refusal = Refusal::kNone;
  Query* query = engine_.submit(*load.application, reinterpret_cast<const std::byte*>(rows_.data()),
                                load.rows, asking, refusal);
  if (query != nullptr) {
    if (load.cancelled_share > 0 && random_.uniform() < load.cancelled_share) {
      const double after_ns = random_.exponential(static_cast<double>(load.cancel_after_ns));
      schedule(now_ns() + static_cast<Nanos>(after_ns), What::kCancel, query->slot,
               query->generation);
    }
    for (std::uint16_t i = 0; i < query->asks; ++i) {
      if (Deployment* deployment = query->ask(i).deployment()) wake_a_driver(*deployment);
    }
  } else {
    --submitted_;  // nothing was accepted
  }
  schedule(load.arrivals(), What::kArrival, load_index);
}

/// As Deployment::wake_a_driver() does: the first that sleeps.
void Simulator::wake_a_driver(Deployment& deployment) {
  for (const auto& replica : deployment.replicas()) {
    if (deployment.waiting_rows() == 0) return;
    if (!replica->is_driven()) return try_to_run(driver_of(*replica));
  }
}

void Simulator::try_to_run(std::uint32_t driver_index) {
  Driver& driver = drivers_[driver_index];
  Nanos retry_at_ns = kNever;
  driver.batch = engine_.drive_for_another(*driver.replica, retry_at_ns);
  driver.retry_at_ns = retry_at_ns;
  if (driver.batch == nullptr) return schedule(retry_at_ns, What::kRetry, driver_index);
  const Nanos start_ns = now_ns();
  const Nanos end_ns = start_ns + driver.model.draw_ns(driver.batch->rows, start_ns, random_);
  if (on_run) on_run({*driver.batch, *driver.replica, start_ns, end_ns});
  schedule(end_ns, What::kRunEnds, driver_index);
  wake_a_driver(driver.replica->deployment());  // for what is left
}

void Simulator::end_run(std::uint32_t driver_index) {
  Driver& driver = drivers_[driver_index];
  Batch& batch = *std::exchange(driver.batch, nullptr);
  if (driver.model.draw_failure(random_)) {
    engine_.fail(batch, Cause::kModelError, 1);
  } else {
    rows_.resize(batch.rows);
    std::memcpy(rows_.data(), batch.data, batch.rows * sizeof(std::int64_t));
    const Deployment& deployment = driver.replica->deployment();
    for (std::int64_t& row : rows_) {
      row = answer_row ? answer_row(deployment, row) : answer_to(row);
    }
    engine_.complete(batch, reinterpret_cast<const std::byte*>(rows_.data()));
  }
  Engine::release_driver(*driver.replica);
  try_to_run(driver_index);
}

void Simulator::collect_answers() {
  for (Letter* letter = box_.take_all(); letter != nullptr;) {
    Letter* next = letter->next_letter;
    collect(static_cast<Query&>(*letter));
    letter = next;
  }
}

void Simulator::collect(Query& query) {
  Outcome outcome;
  engine_.collect(query, 0, outcome);
  ++answered_;
  const std::uint32_t rows = count_answered(query, outcome);
  if (on_answer) {
    on_answer({query.application, load_of(query), query.arrived_ns, query.deadline_ns,
               query.done_ns.load(std::memory_order_relaxed), query.rows, rows, outcome.cause});
  }
  engine_.release(query);
}

std::uint32_t Simulator::count_answered(const Query& query, const Outcome& outcome) {
  std::uint32_t answered = 0;
  for (std::uint32_t row = 0; row < query.rows; ++row) {
    const Cause cause = outcome.causes == nullptr ? outcome.cause : outcome.causes[row];
    if (cause != Cause::kNone) continue;
    ++answered;
    std::int64_t output = 0;
    std::memcpy(&output, outcome.outputs + row * sizeof output, sizeof output);
    const std::int64_t asked = row_of(number_of(query), row);
    if (is_answer_to ? !is_answer_to(asked, output) : output != answer_to(asked)) ++wrong_answers_;
  }
  return answered;
}

Leftovers Simulator::leftovers() {
  Leftovers left;
  left.open_queries = submitted_ - answered_;
  for (const Deployment* deployment : deployments_) {
    left.outstanding_rows += deployment->outstanding();
    left.waiting_rows += deployment->waiting_rows();
    left.live_rows += deployment->live_rows();
  }
  return left;
}

}  // namespace clipper
