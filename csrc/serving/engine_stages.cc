// What the engine does otherwise for queries that go through the stages of a plan.
//
//   submit    all stages are opened, the roots started
//   answer    what was waiting for the rows is started or skipped, see walk.h
//   lead      the stage that is due; and after its batch the next
//   collect   rows that never got so far are let go; the answer is that of the last stage
#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "serving/engine.h"
#include "serving/stages.h"
#include "serving/walk.h"

namespace clipper {

void Engine::prepare_stages(Query& query, bool bypass_cache) {
  query.asks = static_cast<std::uint16_t>(query.plan->stages().size());
  if (query.stages == nullptr) query.stages = std::make_unique<Stages>();
  query.stages->open(*query.plan, query.rows, bypass_cache);
}

// Of a stage in the middle only what a cache knew: that lies nowhere else for its successors.
bool Engine::keeps_output(Query& query, std::uint16_t stage, Deployment& deployment) noexcept {
  return query.plan->stages()[stage].keeps_output ||
         (deployment.cache() != nullptr && !query.stages->bypasses_cache());
}

void Engine::start_plan(Query& query, const ColumnRows* columns, const Asking& asking,
                        Nanos now_ns) {
  const Plan& plan = *query.plan;
  if (plan.keeps_input() && !query.stages->keep_input(plan, columns)) {
    query.finish(Cause::kOverload, now_ns);
    return;
  }
  if (asking.will_lead) started_here().led = &query;
  std::array<ColumnRows, kMaxColumns> taken;
  Walk walk(*this, query, now_ns);
  for (std::uint16_t stage = 0; stage < query.asks; ++stage) {
    if (!plan.stages()[stage].is_root()) continue;
    const auto& inputs = plan.stages()[stage].inputs;
    for (std::size_t c = 0; c < inputs.size(); ++c) taken[c] = columns[inputs[c][0].column];
    walk.start(stage, taken.data(), 0, query.rows);
  }
  answer_refused_waiters();
  StartedStages& started = started_here();
  started.wake(asking.may_lead && started.count == 1 && asking.budget_ns >= kPatientBudget);
}

void Engine::answer_stage(Query& query, Ask& ask, const WaitingRows& entry, Cause cause,
                          const ColumnRows* outputs, std::uint32_t first, Nanos now_ns) noexcept {
  const Plan::Stage& stage = query.plan->stages()[entry.handle.ask];
  // Its controller gave the row up: as if it had been refused on arrival, nothing has failed.
  const bool was_given_up = cause == Cause::kOverload && outputs == nullptr;
  if (was_given_up && query.plan->answers_stand() && !stage.is_root()) cause = kSkipped;
  if (outputs != nullptr && stage.keeps_output) {
    std::byte* rows = ask.outputs().data() + entry.offset * stage.layout.row_bytes();
    if (!stage.layout.write(rows, outputs, first, entry.run.rows)) cause = Cause::kOverload;
  }
  ask.set_cause(entry.offset, entry.run.rows, cause);
  Walk(*this, query, now_ns)
      .follow({entry.handle.ask, entry.offset, entry.run.rows, cause, outputs, first, entry.run,
               nullptr, 0});
  if (ask.publish(entry.run.rows) && query.asks_left.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    query.finish(Cause::kNone, now_ns);
  }
  ask.end_write();
}

/// Once a whole batch has been handed over.
void Engine::wake_started_stages() noexcept {
  answer_refused_waiters();
  started_here().wake(false);
}

// ---- leading ------------------------------------------------------------------------------------

/// Of the stages whose rows wait it leads the first that it may, each once for a query; the others
/// are woken.
Batch* Engine::lead_next_stage(Query& query, Nanos now_ns, Nanos run_limit_ns) {
  if (query.plan == nullptr || query.is_done()) return nullptr;
  const Nanos slack_ns = query.answer_by_ns == kNever ? kNever : query.answer_by_ns - now_ns;
  const Nanos limit_ns = std::min(run_limit_ns, slack_ns);
  const std::uint32_t started = query.stages->started();
  Batch* batch = nullptr;
  for (std::uint16_t stage = 0; stage < query.asks; ++stage) {
    Ask& ask = query.ask(stage);
    if ((started & (1u << stage)) == 0 || ask.rows_left() == 0) continue;
    Deployment& deployment = *ask.deployment();
    if (deployment.waiting_rows() == 0) continue;
    if (batch != nullptr || !query.stages->may_lead(stage)) {
      deployment.wake_a_driver();
    } else {
      batch = try_lead(deployment, now_ns, limit_ns);  // or else it wakes a driver
    }
  }
  if (batch != nullptr) started_here().led = &query;
  return batch;
}

Batch* Engine::lead_at_turn_end(Deployment& deployment, Nanos run_limit_ns) {
  Batch* batch = try_lead(deployment, clock_.now_ns(), run_limit_ns);
  if (batch != nullptr) started_here().ends_turn = true;
  return batch;
}

// ---- the answer ---------------------------------------------------------------------------------

/// Rows that never got as far as a stage leave it, and all have a cause. REQUIRES: sealed.
void Engine::settle_stages(Query& query) noexcept {
  const Cause ended = query.end_cause.load(std::memory_order_relaxed);
  const bool was_cut_short = ended == Cause::kDeadline || ended == Cause::kCancelled;
  for (std::uint16_t stage = 0; stage < query.asks; ++stage) {
    Ask& ask = query.ask(stage);
    std::uint32_t undecided = 0;
    for (std::uint32_t row = 0; row < query.rows; ++row) {
      if (query.stages->is_decided(stage, row)) continue;
      ask.set_cause(row, 1, kSkipped);
      ++undecided;
    }
    if (undecided > 0 && ask.deployment() != nullptr) ask.deployment()->leave(undecided);
    ask.settle(query.rows, was_cut_short ? ended : kSkipped);
    count_stage(query, stage);
  }
}

void Engine::count_stage(Query& query, std::uint16_t stage) noexcept {
  std::uint32_t ran = 0;
  std::uint32_t skipped = 0;
  for (std::uint32_t row = 0; row < query.rows; ++row) {
    const Cause cause = query.ask(stage).cause(row);
    ran += cause == Cause::kNone ? 1 : 0;
    skipped += cause == kSkipped ? 1 : 0;
  }
  const std::uint32_t failed = query.rows - ran - skipped;
  StageCounts& counts = query.application->counts_of(stage);
  if (ran > 0) counts.ran.fetch_add(ran, std::memory_order_relaxed);
  if (skipped > 0) counts.skipped.fetch_add(skipped, std::memory_order_relaxed);
  if (failed > 0) counts.failed.fetch_add(failed, std::memory_order_relaxed);
}

/// The answer to one row, and of which stage it is: unchanged where there is none.
Engine::StageAnswer Engine::answer_of_stages(Query& query, std::uint32_t row) noexcept {
  const Plan& plan = *query.plan;
  StageAnswer answer;
  for (std::uint16_t stage = 0; stage < query.asks && answer.cause == Cause::kNone; ++stage) {
    const Cause cause = query.ask(stage).cause(row);
    if (cause != kSkipped) answer.cause = cause;
  }
  if (answer.cause != Cause::kNone && !plan.answers_stand()) return answer;
  for (const std::uint16_t stage : plan.answers()) {
    Ask& ask = query.ask(stage);
    if (ask.cause(row) != Cause::kNone) continue;
    const OutputLayout& layout = plan.stages()[stage].layout;
    answer.stage = stage;
    answer.confidence = plan.confidence_in(ask.outputs().data() + row * layout.row_bytes(), layout);
    const bool is_enough = answer.confidence >= query.application->min_confidence;
    answer.cause = is_enough ? Cause::kNone : Cause::kLowConfidence;
    return answer;
  }
  if (answer.cause == Cause::kNone) answer.cause = query.end_cause.load(std::memory_order_relaxed);
  if (answer.cause == Cause::kNone) answer.cause = Cause::kLowConfidence;  // no condition held
  return answer;
}

void Engine::combine_stages(Query& query, Outcome& outcome) {
  outcome.queued_ns = queued_before_stages(query);
  StageAnswer answer = answer_of_stages(query, 0);
  outcome.cause = answer.cause;
  outcome.confidence = answer.confidence;
  if (query.rows == 1) return give_stage(query, answer.stage, outcome);
  std::vector<std::uint16_t> stages(query.rows, Plan::kNowhere);
  query.combined_causes = std::make_unique<Cause[]>(query.rows);
  query.confidences = std::make_unique<float[]>(query.rows);
  outcome.causes = query.combined_causes.get();
  outcome.confidences = query.confidences.get();
  std::uint16_t only = Plan::kNowhere;
  bool is_only = true;
  for (std::uint32_t row = 0; row < query.rows; ++row) {
    answer = answer_of_stages(query, row);
    query.combined_causes[row] = answer.cause;
    query.confidences[row] = answer.confidence;
    stages[row] = answer.stage;
    if (answer.stage == Plan::kNowhere) continue;
    if (only == Plan::kNowhere) only = answer.stage;
    is_only = is_only && answer.stage == only;
  }
  if (is_only) return give_stage(query, only, outcome);
  gather_answers(query, stages, outcome);
}

/// Until the last root began. What later stages waited for is part of the run.
Nanos Engine::queued_before_stages(Query& query) noexcept {
  Nanos queued_ns = 0;
  for (std::uint16_t stage = 0; stage < query.asks; ++stage) {
    if (!query.plan->stages()[stage].is_root()) continue;
    queued_ns = std::max(queued_ns, query.ask(stage).started_ns() - query.arrived_ns);
  }
  return queued_ns;
}

/// All rows have their answers, if any, from this stage: they are given as they lie.
void Engine::give_stage(Query& query, std::uint16_t stage, Outcome& outcome) noexcept {
  if (stage == Plan::kNowhere) stage = query.plan->answers().front();
  Ask& ask = query.ask(stage);
  outcome.holder = &ask.outputs();
  outcome.outputs = ask.outputs().data();
  outcome.layout = ask.deployment() == nullptr ? nullptr : &query.plan->stages()[stage].layout;
}

void Engine::gather_answers(Query& query, const std::vector<std::uint16_t>& stages,
                            Outcome& outcome) {
  const OutputLayout& layout = query.plan->stages()[query.plan->answers().front()].layout;
  query.combined.allocate(layout, query.rows);
  for (std::uint32_t row = 0; row < query.rows; ++row) {
    if (stages[row] == Plan::kNowhere) continue;
    const std::size_t at = row * layout.row_bytes();
    if (!layout.copy(query.ask(stages[row]).outputs().data() + at, query.combined.data() + at)) {
      query.combined_causes[row] = Cause::kOverload;
    }
  }
  outcome.cause = query.combined_causes[0];
  outcome.holder = &query.combined;
  outcome.outputs = query.combined.data();
  outcome.layout = &layout;
}

}  // namespace clipper
