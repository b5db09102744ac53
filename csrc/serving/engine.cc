#include "serving/engine.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <span>

#include "base/fork_epoch.h"
#include "base/random.h"

namespace clipper {
Engine::Engine(const Clock& clock, std::uint64_t seed, Nanos first_reserve_ns,
               const JoinRecords::Options& records)
    : clock_(clock),
      fork_epoch_(fork_epoch()),
      reserve_(first_reserve_ns),
      feedback_(clock, records),
      random_state_(seed) {
  Random random(~seed);  // a sequence of its own
  cache_secret_ = {random(), random()};
}

Engine::~Engine() { drop_shadows(); }

Model& Engine::add_model(std::string name) {
  const std::scoped_lock lock(set_up_mutex_);
  models_.push_back(std::make_unique<Model>(std::move(name)));
  return *models_.back();
}

Deployment& Engine::add_deployment(DeploymentOptions options) {
  const std::scoped_lock lock(set_up_mutex_);
  options.cache.secret = cache_secret_;
  options.cache.deployment = deployments_.size();
  deployments_.push_back(std::make_unique<Deployment>(std::move(options), queries_));
  deployments_.back()->set_alarm_bell(alarm_bell_);
  return *deployments_.back();
}

Application& Engine::add_application(std::string name, std::vector<Model*> models,
                                     std::unique_ptr<Policy> policy, Nanos slo_ns,
                                     float min_confidence, Priority priority,
                                     std::size_t context_bytes, std::unique_ptr<const Plan> plan) {
  if (models.empty() || models.size() > kMaxAsks) {
    throw Error(ErrorCode::kInvalidArgument, "an application links 1 to " +
                                                 std::to_string(kMaxAsks) + " models, not " +
                                                 std::to_string(models.size()));
  }
  if (plan != nullptr && plan->stages().size() != models.size()) {
    throw Error(ErrorCode::kInvalidArgument, "a plan has a stage for each model");
  }
  const std::scoped_lock lock(set_up_mutex_);
  applications_.push_back(std::make_unique<Application>(std::move(name), std::move(models),
                                                        std::move(policy), slo_ns, min_confidence,
                                                        priority, context_bytes, std::move(plan)));
  return *applications_.back();
}

// ---- the first half of the picture: a query on its way in ---------------------------------------

Query* Engine::submit(Application& application, const ColumnRows* columns, std::uint32_t count,
                      const Asking& asking, Refusal& refusal) noexcept {
  refusal = is_forked()             ? Refusal::kForked
            : is_closed()           ? Refusal::kClosed
            : count > kMaxQueryRows ? Refusal::kTooManyRows
                                    : Refusal::kNone;
  if (refusal != Refusal::kNone) return nullptr;
  Query* query = queries_.acquire();
  if (query == nullptr) {
    refusal = Refusal::kOutOfMemory;
    return nullptr;
  }
  try {
    prepare(*query, application, count, asking);
    prepare_asks(*query, asking);
  } catch (const std::bad_alloc&) {
    query->context.release();
    queries_.release(*query);
    refusal = Refusal::kOutOfMemory;
    return nullptr;
  }
  // Stages start otherwise, and whom nobody was chosen for asks nobody.
  const bool asks_at_once = query->plan == nullptr && asking.unasked == Cause::kNone;
  const std::uint16_t asks = asks_at_once ? query->asks : 0;
  query->open();
  if (!asking.attended) watch_deadline(*query);
  // Who comes late, as a load generator may, has less time left than its arrival says.
  const Nanos now_ns = asking.arrived_ns != 0 ? clock_.now_ns() : query->arrived_ns;
  if (asking.unasked != Cause::kNone) [[unlikely]] {
    query->finish(asking.unasked, now_ns);
  } else if (query->plan != nullptr) [[unlikely]] {
    start_plan(*query, columns, asking, now_ns);
  }
  for (std::uint16_t i = 0; i < asks; ++i) {
    enqueue(*query, i, columns, now_ns, asking.bypass_cache);
  }
  if (!asking.will_lead || asks > 1) {
    const bool patient = asking.may_lead && asks == 1 && asking.budget_ns >= kPatientBudget;
    for (std::uint16_t i = 0; i < asks; ++i) {
      Deployment* deployment = query->ask(i).deployment();
      // Whatever it is that waits: a row of a query that has ended may be somebody else's by now.
      if (deployment != nullptr && deployment->waiting_rows() > 0) {
        deployment->wake_a_driver(patient);
      }
    }
  }
  if (application.shadows != nullptr && !asking.everyone && asking.unasked == Cause::kNone)
      [[unlikely]] {
    start_shadows(*query, columns);
  }
  // close() may have looked for open queries before this one was.
  if (is_closed()) query->finish(Cause::kCancelled, clock_.now_ns());
  return query;
}

void Engine::prepare(Query& query, Application& application, std::uint32_t rows,
                     const Asking& asking) {
  const Nanos now_ns = asking.arrived_ns != 0 ? asking.arrived_ns : clock_.now_ns();
  query.application = &application;
  query.plan = application.plan.get();
  query.rows = rows;
  query.owner = asking.owner;
  query.priority = asking.priority == kApplicationsPriority
                       ? application.priority
                       : std::clamp(asking.priority, kLeastPriority, kMostPriority);
  query.arrived_ns = now_ns;
  query.deadline_ns = saturating_add(now_ns, asking.budget_ns);
  query.answer_by_ns =
      query.deadline_ns == kNever ? kNever : query.deadline_ns - reserve_.of(asking.budget_ns);
  query.context_key = asking.context;
  query.has_context = asking.has_context;
  query.mailbox.store(asking.mailbox, std::memory_order_relaxed);
  query.reap_at_ns.store(asking.attended ? kNever : query.answer_by_ns, std::memory_order_relaxed);
}

void Engine::prepare_asks(Query& query, const Asking& asking) {
  const Application& application = *query.application;
  std::array<Choice, kMaxAsks> chosen{};
  const auto models = static_cast<std::uint16_t>(application.models.size());
  query.asks = 1;
  if (application.policy) {
    query.context = asking.has_context && application.policy->learns_by_context()
                        ? application.contexts->pin(asking.context)
                        : ContextPin(application.contexts->own());
  }
  if (query.plan != nullptr) {
    prepare_stages(query, asking.bypass_cache);
    for (std::uint16_t i = 0; i < query.asks; ++i) {
      chosen[i].model = query.plan->stages()[i].model;
    }
  } else if (!asking.chosen.empty()) {
    query.asks = static_cast<std::uint16_t>(asking.chosen.size());
    std::copy(asking.chosen.begin(), asking.chosen.end(), chosen.begin());
  } else if (asking.everyone) {
    query.asks = models;
    for (std::uint16_t i = 0; i < models; ++i) chosen[i].model = i;
  } else if (application.policy && asking.unasked == Cause::kNone) {
    SelectionInput input{models, asking.context, asking.has_context, random_bits()};
    if (application.fewest_asks != 0) [[unlikely]]
      input.most = most_asks_under_load(query);
    query.asks = static_cast<std::uint16_t>(
        application.policy->select(input, query.context.state(), std::span(chosen).first(models)));
  }
  query.asks_left.store(query.asks, std::memory_order_relaxed);
  query.make_room(query.asks);
  for (std::uint16_t i = 0; i < query.asks; ++i) {
    Deployment* deployment = asking.unasked == Cause::kNone
                                 ? application.models[chosen[i].model]->enter(query.rows)
                                 : nullptr;
    try {
      const bool is_kept =
          deployment != nullptr && (query.plan == nullptr || keeps_output(query, i, *deployment));
      query.ask(i).open(deployment, is_kept ? &deployment->output_layout() : nullptr, chosen[i],
                        query.rows, query.generation);
    } catch (const std::bad_alloc&) {
      for (std::uint16_t j = 0; j <= i; ++j) {
        Deployment* entered = j < i ? query.ask(j).deployment() : deployment;
        if (entered != nullptr) entered->leave(query.rows);
      }
      throw;
    }
  }
}

void Engine::watch_deadline(Query& query) noexcept {
  const Nanos at_ns = query.reap_at_ns.load(std::memory_order_relaxed);
  Nanos next_ns = next_reap_ns_.load(std::memory_order_seq_cst);
  while (at_ns < next_ns) {
    if (!next_reap_ns_.compare_exchange_weak(next_ns, at_ns, std::memory_order_seq_cst)) continue;
    if (reaper_asleep_.load(std::memory_order_seq_cst)) wake_reaper();
    return;
  }
}

void Engine::enqueue(Query& query, std::uint16_t index, const ColumnRows* columns, Nanos now_ns,
                     bool bypass_cache) noexcept {
  Ask& ask = query.ask(index);
  Deployment* deployment = ask.deployment();
  if (deployment == nullptr) return refuse(query, index, Cause::kNoReplica, 0);
  if (deployment->cache() != nullptr && !bypass_cache) {
    return enqueue_cached(query, index, columns, now_ns);
  }
  if (!deployment->admits(now_ns, query.rows, query.answer_by_ns,
                          deployment->longest_lane_of(columns, query.rows), query.priority)) {
    const bool is_down = !deployment->has_available_replica(now_ns);
    return refuse(query, index, is_down ? Cause::kNoReplica : Cause::kOverload, 0);
  }
  const std::uint32_t total = query.rows;
  WaitingRows entry{{query.slot, query.generation, index, 0},
                    0,
                    {},
                    query.answer_by_ns,
                    query.arrived_ns,
                    0,
                    query.priority};
  // The rows of one query stay together up to the block size.
  for (std::uint32_t offset = 0; offset < total; offset += entry.run.rows) {
    entry.offset = offset;
    const std::uint32_t together = screen(entry, *deployment, columns, offset, total - offset);
    if (together == 0) continue;
    const auto run = deployment->store(columns, offset, together, entry.lane);
    if (!run) return refuse(query, index, Cause::kOverload, offset);
    entry.run = *run;
    if (!deployment->push(entry)) {
      RowBlocks::release(*run->block, run->rows);
      return refuse(query, index, Cause::kOverload, offset);
    }
  }
}

void Engine::refuse(Query& query, std::uint16_t index, Cause cause, std::uint32_t offset) noexcept {
  Deployment* deployment = query.ask(index).deployment();
  const std::uint32_t rows = query.rows - offset;
  const WaitingRows entry{{query.slot, query.generation, index, 0},
                          offset,
                          {nullptr, 0, rows},
                          0,
                          0,
                          0,
                          query.priority};
  if (deployment != nullptr) deployment->rows_refused.fetch_add(rows, std::memory_order_relaxed);
  answer(entry, cause, nullptr, 0, 0, 0, query.arrived_ns);
  if (deployment != nullptr) deployment->leave(rows);
}

// SplitMix64 over a shared counter: every query its own bits, without a lock.
std::uint64_t Engine::random_bits() noexcept {
  std::uint64_t bits = random_state_.fetch_add(0x9e3779b97f4a7c15ULL, std::memory_order_relaxed);
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9ULL;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebULL;
  return bits ^ (bits >> 31);
}

// ---- drivers ------------------------------------------------------------------------------------

namespace {

// The deployments whose batches this thread is running: nested predictions may lead others, never
// these.
constexpr std::size_t kDeepest = 16;
thread_local std::array<const Deployment*, kDeepest> driving{};
thread_local std::size_t driving_depth = 0;

}  // namespace

bool Engine::is_driving(const Deployment& deployment) noexcept {
  const auto end = driving.begin() + static_cast<std::ptrdiff_t>(driving_depth);
  return std::find(driving.begin(), end, &deployment) != end;
}

Batch* Engine::lead(Query& query, Nanos now_ns, Nanos run_limit_ns) {
  if (query.plan != nullptr) [[unlikely]]
    return lead_next_stage(query, now_ns, run_limit_ns);
  Deployment* deployment = query.first_ask.deployment();
  if (query.asks != 1 || deployment == nullptr || query.is_done()) return nullptr;
  if (deployment->options().callers_carry) return nullptr;  // wait() sees to its rows
  const Nanos slack_ns = query.answer_by_ns == kNever ? kNever : query.answer_by_ns - now_ns;
  return try_lead(*deployment, now_ns, std::min(run_limit_ns, slack_ns));
}

Batch* Engine::try_lead(Deployment& deployment, Nanos now_ns, Nanos run_limit_ns) {
  if (!deployment.options().caller_runs || driving_depth == kDeepest || is_driving(deployment)) {
    deployment.wake_a_driver();
    return nullptr;
  }
  for (const auto& replica : deployment.replicas()) {
    // A model that is not warm may take any time: its own thread finds out.
    if (!replica->is_warm() || !replica->try_drive()) continue;
    Nanos retry_at_ns = kNever;
    Batch* batch = claim(*replica, now_ns, run_limit_ns, retry_at_ns);
    if (batch != nullptr) {
      driving[driving_depth++] = &deployment;
      return batch;
    }
    replica->stop_driving();
  }
  if (deployment.waiting_rows() > 0) deployment.wake_a_driver();
  return nullptr;
}

Batch* Engine::drive(Replica& replica, Nanos& retry_at_ns) {
  retry_at_ns = kNever;
  if (driving_depth == kDeepest) return nullptr;
  Batch* batch = drive_for_another(replica, retry_at_ns);
  if (batch != nullptr) driving[driving_depth++] = &replica.deployment();
  return batch;
}

Batch* Engine::drive_for_another(Replica& replica, Nanos& retry_at_ns) {
  retry_at_ns = kNever;
  if (!replica.try_drive()) return nullptr;
  Batch* batch = claim(replica, clock_.now_ns(), kNever, retry_at_ns);
  if (batch == nullptr) replica.stop_driving();
  return batch;
}

void Engine::release_driver(Replica& replica) noexcept { replica.stop_driving(); }

void Engine::stop_driving(Replica& replica) noexcept {
  --driving_depth;
  replica.stop_driving();
  // Rows that came meanwhile rely on us to find them a driver.
  if (replica.deployment().waiting_rows() > 0) replica.deployment().wake_a_driver();
}

Batch* Engine::claim(Replica& replica, Nanos now_ns, Nanos run_limit_ns, Nanos& retry_at_ns) {
  thread_local std::vector<DroppedRows> dropped;
  dropped.clear();
  Deployment& deployment = replica.deployment();
  Batch* batch = deployment.claim(replica, now_ns, run_limit_ns, dropped, retry_at_ns);
  if (!dropped.empty()) answer_dropped(deployment, dropped, now_ns);
  return batch;
}

// ---- the second half of the picture: answers on their way out -----------------------------------

Nanos Engine::complete(Batch& batch, const ColumnRows* outputs) {
  const Nanos now_ns = clock_.now_ns();
  batch.replica->end(batch, now_ns, false);
  std::uint32_t first = 0;
  for (const WaitingRows& entry : batch.entries) {
    answer(entry, Cause::kNone, outputs, first, batch.start_ns, 0, now_ns);
    first += entry.run.rows;
  }
  // Whoever waits for these rows has them; but outputs may lie in the batch's own rows, where the
  // next rows are written once they are released.
  if (outputs != nullptr) batch.replica->deployment().note_outputs(outputs, first, now_ns);
  release_rows(batch);
  return now_ns;
}

Nanos Engine::fail(Batch& batch, Cause cause, std::uint32_t error_id) {
  const Nanos now_ns = clock_.now_ns();
  batch.replica->end(batch, now_ns, true);
  for (const WaitingRows& entry : batch.entries) {
    answer(entry, cause, nullptr, 0, batch.start_ns, error_id, now_ns);
  }
  release_rows(batch);
  return now_ns;
}

void Engine::answer(const WaitingRows& entry, Cause cause, const ColumnRows* outputs,
                    std::uint32_t first, Nanos started_ns, std::uint32_t error_id,
                    Nanos now_ns) noexcept {
  if (entry.flight) return land(entry, cause, outputs, first, started_ns, error_id, now_ns);
  Query& query = queries_.at(entry.handle.slot);
  Ask& ask = query.ask(entry.handle.ask);
  const bool is_current = ask.begin_write(entry.handle);
  // An answer that comes after the decision is dropped, even if the owner has not collected yet.
  if (!is_current || !Query::is_open(query.phase.load(std::memory_order_acquire))) {
    if (is_current) ask.end_write();
    if (cause == Cause::kNone) answers_lost.fetch_add(entry.run.rows, std::memory_order_relaxed);
    return;
  }
  if (query.plan != nullptr) [[unlikely]] {
    ask.note(started_ns, error_id);
    return answer_stage(query, ask, entry, cause, outputs, first, now_ns);
  }
  if (outputs != nullptr) {
    const OutputLayout& layout = ask.deployment()->output_layout();
    std::byte* rows = ask.outputs().data() + entry.offset * layout.row_bytes();
    // Without memory for them these answers are lost, and no others.
    if (!layout.write(rows, outputs, first, entry.run.rows)) cause = Cause::kOverload;
  }
  ask.set_cause(entry.offset, entry.run.rows, cause);
  ask.note(started_ns, error_id);
  if (ask.publish(entry.run.rows) && query.asks_left.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    query.finish(Cause::kNone, now_ns);
  }
  ask.end_write();
}

void Engine::release_rows(Batch& batch) {
  Deployment& deployment = batch.replica->deployment();
  const std::uint32_t rows = batch.rows;
  if (batch.was_gathered()) RowBlocks::release(*batch.staging.block, batch.staging.rows);
  for (std::size_t i = 0; i < batch.entries.size();) {
    Block* block = batch.entries[i].run.block;
    std::uint32_t count = 0;
    for (; i < batch.entries.size() && batch.entries[i].run.block == block; ++i) {
      count += batch.entries[i].run.rows;
    }
    RowBlocks::release(*block, count);
  }
  batch.entries.clear();
  batch.rows = 0;
  deployment.leave(rows);  // last: a closed deployment frees its memory when all have left
  wake_started_stages();
}

void Engine::answer_dropped(Deployment& deployment, std::vector<DroppedRows>& dropped,
                            Nanos now_ns) {
  for (const DroppedRows& row : dropped) {
    answer(row.entry, row.cause, nullptr, 0, 0, 0, now_ns);
    if (row.entry.run.block == nullptr) continue;
    RowBlocks::release(*row.entry.run.block, row.entry.run.rows);
    deployment.leave(row.entry.run.rows);
  }
  wake_started_stages();
}

void Engine::flush(Deployment& deployment, Cause cause) {
  deployment.note_flushed();
  std::vector<DroppedRows> dropped;
  deployment.take_all(dropped, cause);
  answer_dropped(deployment, dropped, clock_.now_ns());
}

}  // namespace clipper
