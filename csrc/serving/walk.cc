#include "serving/walk.h"

#include <new>
#include <utility>

#include "serving/engine.h"

namespace clipper {
namespace {

bool is_failure(Cause cause) { return cause != Cause::kNone && cause != kSkipped; }

// ---- where rows lie, as columns whose first row is the one that is meant -----------------------

ColumnRows in_columns(const ColumnRows& column, const OutputLayout::Column& shape,
                      std::uint32_t row) noexcept {
  if (!shape.ragged) return {column.data + row * shape.item_bytes};
  if (column.offsets != nullptr) return {column.data, column.offsets + row};
  return column;  // of a single row
}

ColumnRows in_block(const RowRun& run, std::size_t column, std::uint32_t row) noexcept {
  const BlockLayout& layout = *run.block->layout;
  if (!layout.columns()[column].ragged) {
    return {layout.row(run.block->data, column, run.first + row)};
  }
  return {layout.row(run.block->data, column, 0),
          layout.offsets(run.block->data, column) + run.first + row};
}

ColumnRows in_memory(const OutputLayout& layout, const std::byte* rows, std::size_t column,
                     std::uint32_t row) noexcept {
  const OutputLayout::Column& shape = layout.columns()[column];
  const std::byte* at = rows + row * layout.row_bytes();
  if (!shape.ragged) return {at + shape.offset};
  const RaggedCell& cell = OutputLayout::cell(at, shape);
  return {cell.data, nullptr, {0, cell.items}};
}

/// Whether rows of this layout lie one directly after the other in every column.
bool is_dense(const OutputLayout& layout) noexcept {
  return layout.is_fixed() && layout.columns().size() == 1;
}

}  // namespace

StartedStages& started_here() noexcept {
  thread_local StartedStages started;
  return started;
}

Walk::Walk(Engine& engine, Query& query, Nanos now_ns) noexcept
    : engine_(engine), query_(query), plan_(*query.plan), stages_(*query.stages), now_ns_(now_ns) {}

void Walk::start(std::uint16_t stage, const ColumnRows* columns, std::uint32_t offset,
                 std::uint32_t rows) noexcept {
  Deployment* deployment = query_.ask(stage).deployment();
  if (deployment == nullptr) return refuse(stage, offset, rows);
  const Nanos deadline_ns = deadline_of(stage);
  if (deployment->cache() != nullptr && !stages_.bypasses_cache()) {
    return start_cached(stage, columns, offset, rows, deadline_ns);
  }
  if (!deployment->admits(now_ns_, rows, deadline_ns, deployment->longest_lane_of(columns, rows),
                          query_.priority)) {
    return refuse(stage, offset, rows);
  }
  WaitingRows entry{
      {query_.slot, query_.generation, stage, 0}, 0, {}, deadline_ns, now_ns_, 0, query_.priority};
  std::uint32_t done = 0;
  for (; done < rows; done += entry.run.rows) {
    entry.offset = offset + done;
    std::uint32_t together = rows - done;
    if (!deployment->quarantine().is_empty()) {
      const Screened screened = deployment->quarantine().screen(columns, done, together);
      together = screened.rows;
      const bool is_suspect = screened.suspicion == Suspicion::kSuspect;
      entry.handle.trial = is_suspect ? Trial::kSuspect : Trial::kFirst;
      if (screened.suspicion == Suspicion::kRefused) {
        entry.run.rows = 1;
        query_.ask(stage).note(0, screened.error_id);
        end(stage, entry.offset, 1, Cause::kCrash);
        continue;
      }
    }
    const auto run = deployment->store(columns, done, together, entry.lane);
    if (!run) break;
    entry.run = *run;
    if (!deployment->push(entry)) {
      RowBlocks::release(*run->block, run->rows);
      break;
    }
    stages_.note_decided(stage, entry.offset, run->rows);
  }
  if (done > 0) note_waiting(stage, *deployment);
  if (done < rows) refuse(stage, offset + done, rows - done);
}

void Walk::note_waiting(std::uint16_t stage, Deployment& deployment) noexcept {
  stages_.note_started(stage);
  started_here().note(query_, deployment);
  flush_if_late(deployment);
}

// An answer that is there is better than none that would come in time.
void Walk::refuse(std::uint16_t stage, std::uint32_t offset, std::uint32_t rows) noexcept {
  Deployment* deployment = query_.ask(stage).deployment();
  if (deployment != nullptr) deployment->rows_refused.fetch_add(rows, std::memory_order_relaxed);
  Cause why = deployment == nullptr ? Cause::kNoReplica : Cause::kOverload;
  if (plan_.answers_stand() && !plan_.stages()[stage].is_root()) why = kSkipped;
  end(stage, offset, rows, why);
}

void Walk::end(std::uint16_t stage, std::uint32_t offset, std::uint32_t rows,
               Cause cause) noexcept {
  Ask& ask = query_.ask(stage);
  // Else it was withdrawn: the owner lets go of what is not decided.
  if (!ask.begin_write({query_.slot, query_.generation, stage, 0})) return;
  stages_.note_decided(stage, offset, rows);
  if (ask.deployment() != nullptr) ask.deployment()->leave(rows);
  ask.set_cause(offset, rows, cause);
  follow({stage, offset, rows, cause, nullptr, 0, {}, nullptr, 0});
  if (ask.publish(rows) && query_.asks_left.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    query_.finish(Cause::kNone, now_ns_);
  }
  ask.end_write();
}

// A deployment that was closed waits for queries on their way to it, but not for ever: rows that
// come after that find nobody who would claim them.
void Walk::flush_if_late(Deployment& deployment) noexcept {
  if (!deployment.is_flushed()) [[likely]]
    return;
  try {
    engine_.flush(deployment, Cause::kNoReplica);
  } catch (const std::bad_alloc&) {  // they end with their query then
  }
}

void Walk::follow(const Ended& ended) noexcept {
  // With its only row the query has failed, whatever other stages are about.
  if (is_failure(ended.cause) && !plan_.answers_stand() && query_.rows == 1) {
    query_.finish(ended.cause, now_ns_);
    return;
  }
  for (const std::uint16_t next : plan_.stages()[ended.stage].successors) follow_to(next, ended);
}

/// Consecutive rows that go the same way go together.
void Walk::follow_to(std::uint16_t stage, const Ended& ended) noexcept {
  std::uint32_t begin = 0;
  Verdict verdict = decide(stage, ended, 0);
  for (std::uint32_t i = 1; i <= ended.rows; ++i) {
    const Verdict next = i < ended.rows ? decide(stage, ended, i) : Verdict::kNotDue;
    if (i < ended.rows && next == verdict) continue;
    if (verdict == Verdict::kRun) run(stage, ended, begin, i - begin);
    if (verdict == Verdict::kSkip) end(stage, ended.offset + begin, i - begin, kSkipped);
    begin = i;
    verdict = next;
  }
}

Walk::Verdict Walk::decide(std::uint16_t stage, const Ended& ended, std::uint32_t i) noexcept {
  const Plan::Stage& next = plan_.stages()[stage];
  const std::uint32_t row = ended.offset + i;
  // A query that was withdrawn starts nothing more.
  if (!Query::is_open(query_.phase.load(std::memory_order_acquire))) return Verdict::kNotDue;
  if (next.predecessors.size() > 1 && !stages_.note_ended_predecessor(stage, row)) {
    return Verdict::kNotDue;
  }
  for (const std::uint16_t predecessor : next.predecessors) {
    if (is_failure(cause(predecessor, row))) return Verdict::kSkip;
  }
  for (const Condition& condition : next.conditions) {
    if (!holds(condition, ended, i)) return Verdict::kSkip;
  }
  for (const auto& sources : next.inputs) {
    if (std::none_of(sources.begin(), sources.end(),
                     [&](const Source& source) { return has_value(source, row); })) {
      return Verdict::kSkip;
    }
  }
  return Verdict::kRun;
}

bool Walk::holds(const Condition& condition, const Ended& ended, std::uint32_t i) noexcept {
  if (cause(condition.stage, ended.offset + i) != Cause::kNone) return false;
  const Reading& reading = condition.reading;
  ColumnRows column;
  static_cast<void>(locate({condition.stage, reading.column}, Plan::kNowhere, ended, i, column));
  std::size_t elements = reading.tensor.elements();
  const std::byte* data = column.data;
  if (reading.tensor.ragged) {
    const std::int64_t begin = column.begin_of(0);
    data += static_cast<std::size_t>(begin) * reading.tensor.item_bytes();
    elements *= static_cast<std::size_t>(column.begin_of(1) - begin);
  }
  return condition.holds(data, elements);
}

void Walk::run(std::uint16_t stage, const Ended& ended, std::uint32_t i,
               std::uint32_t count) noexcept {
  const Plan::Stage& next = plan_.stages()[stage];
  std::array<ColumnRows, kMaxColumns> columns;
  for (const std::uint32_t end = i + count; i < end;) {
    bool lie_together = !next.has_alternatives;
    for (std::size_t c = 0; c < next.inputs.size(); ++c) {
      const auto source =
          std::find_if(next.inputs[c].begin(), next.inputs[c].end(),
                       [&](const Source& each) { return has_value(each, ended.offset + i); });
      lie_together &= locate(*source, next.same_as[c], ended, i, columns[c]);
    }
    const std::uint32_t rows = lie_together ? end - i : 1;
    start(stage, columns.data(), ended.offset + i, rows);
    i += rows;
  }
}

bool Walk::locate(const Source& source, std::uint16_t same_as, const Ended& ended, std::uint32_t i,
                  ColumnRows& column) noexcept {
  const std::uint32_t row = ended.offset + i;
  if (source.stage == Source::kQuery) {
    if (same_as != Plan::kNowhere) {
      const OutputLayout::Column& shape = plan_.input_layout().columns()[source.column];
      column = ended.known != nullptr
                   ? in_columns(ended.known[same_as], shape, ended.first_known + i)
                   : in_block(ended.inputs, same_as, i);
      return true;
    }
    column = in_memory(plan_.input_layout(), stages_.input(), source.column, row);
    return is_dense(plan_.input_layout());
  }
  const OutputLayout& layout = plan_.stages()[source.stage].layout;
  if (source.stage == ended.stage && ended.outputs != nullptr) {
    const OutputLayout::Column& shape = layout.columns()[source.column];
    column = in_columns(ended.outputs[source.column], shape, ended.first + i);
    return true;
  }
  column = in_memory(layout, query_.ask(source.stage).outputs().data(), source.column, row);
  return is_dense(layout);
}

// A stage must leave those that certainly come after it what they take at least. Half of the time
// left is its own in any case: a bound that is wrong must not keep rows from ever getting so far
// that it is mended.
Nanos Walk::deadline_of(std::uint16_t stage) noexcept {
  if (query_.answer_by_ns == kNever || plan_.stages()[stage].certain_successors.empty()) {
    return query_.answer_by_ns;
  }
  std::array<Nanos, Plan::kMostStages> after{};
  for (std::size_t place = plan_.stages().size(); place-- > stage;) {
    for (const std::uint16_t next : plan_.stages()[place].certain_successors) {
      after[place] = std::max(after[place], after[next] + run_bound_ns(next));
    }
  }
  const Nanos left_ns = std::max<Nanos>(query_.answer_by_ns - now_ns_, 0);
  return query_.answer_by_ns - std::min(after[stage], left_ns / 2);
}

Nanos Walk::run_bound_ns(std::uint16_t stage) noexcept {
  const Deployment* deployment = query_.ask(stage).deployment();
  if (deployment == nullptr) return 0;
  Nanos least = kNever;
  for (const auto& replica : deployment->replicas()) {
    const Controller& controller = std::as_const(*replica).controller();
    const std::uint32_t rows = std::min(query_.rows, deployment->max_batch());
    least = std::min(least, controller.is_warm() ? controller.run_bound_ns(rows) : 0);
  }
  return least == kNever ? 0 : least;
}

}  // namespace clipper
