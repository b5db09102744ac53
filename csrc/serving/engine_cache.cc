// Rows of a deployment that has a prediction cache, on their way in and out.
//
// In: each row is a hit (its output is copied, its caller answered), joins a flight, or is missed
// and then stored and pushed like any other, in runs, with a flight. Out: the flights of answered
// rows land, which keeps the outputs and answers whoever joined.
//
// A row that was counted into its deployment leaves it when its own memory does: for hits and
// joined rows, which have none, at the end of enqueue_cached(). A joined row relies on the one
// whose flight it joined, which stays counted.
#include <algorithm>
#include <vector>

#include "serving/engine.h"

namespace clipper {

/// The rows of one ask while they are enqueued.
struct Engine::CachedAsk {
  Query& query;
  Ask& ask;
  const std::uint16_t index;
  Deployment& deployment;
  PredictionCache& cache;
  const ColumnRows* const columns;
  const Nanos now_ns;

  // Of the rows from `first_missed` on; those of hits and joined rows are not used.
  Flight* flights = nullptr;
  std::uint32_t first_missed = 0;
  std::uint32_t missed = 0;

  [[nodiscard]] Handle handle() const noexcept { return {query.slot, query.generation, index, 0}; }
  [[nodiscard]] Flight& flight(std::uint32_t row) const noexcept {
    return flights[row - first_missed];
  }
  /// REQUIRES: row >= first_missed.
  [[nodiscard]] bool is_missed(std::uint32_t row) const noexcept {
    return flight(row).cache != nullptr;
  }
};

void Engine::enqueue_cached(Query& query, std::uint16_t index, const ColumnRows* columns,
                            Nanos now_ns) noexcept {
  Ask& ask = query.ask(index);
  Deployment& deployment = *ask.deployment();
  CachedAsk cached{query, ask, index, deployment, *deployment.cache(), columns, now_ns};
  look_up_rows(cached);
  if (cached.missed > 0) push_missed(cached);
  if (cached.missed < query.rows) deployment.leave(query.rows - cached.missed);
}

// Answers what is known and joins what is under way.
void Engine::look_up_rows(CachedAsk& cached) noexcept {
  using Found = PredictionCache::Found;
  Query& query = cached.query;
  Ask& ask = cached.ask;
  const std::size_t row_bytes = cached.deployment.output_layout().row_bytes();
  std::uint32_t done = 0;
  // Nobody else seals it: its owner is still submitting it.
  const bool is_writing = ask.begin_write(cached.handle());
  for (std::uint32_t row = 0; row < query.rows; ++row) {
    const Waiter waiter{cached.handle(), row, query.answer_by_ns, query.arrived_ns, query.priority};
    const auto may_join = [&](const Flight& flight) {
      return cached.deployment.may_join(flight, cached.now_ns, query.answer_by_ns,
                                        cached.deployment.lane_of(cached.columns, row),
                                        query.priority);
    };
    const auto make_flight = [&]() -> Flight* {
      if (cached.flights == nullptr) {
        cached.first_missed = row;
        cached.flights = Flight::make(query.rows - row);
      }
      return cached.flights == nullptr ? nullptr : &cached.flight(row);
    };
    const Found found =
        cached.cache.look_up(cached.cache.key_of(cached.columns, row), waiter, cached.now_ns,
                             ask.outputs().data() + row * row_bytes, may_join, make_flight);
    if (found == Found::kMissed && cached.flights != nullptr) {
      ++cached.missed;
    } else if (found != Found::kJoined) {
      ask.set_cause(row, 1, found == Found::kHit ? Cause::kNone : Cause::kOverload);
      ++done;
    }
  }
  if (done > 0 && ask.publish(done) &&
      query.asks_left.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    query.finish(Cause::kNone, clock_.now_ns());
  }
  if (is_writing) ask.end_write();
}

void Engine::push_missed(CachedAsk& cached) noexcept {
  Query& query = cached.query;
  bool has_room = cached.deployment.admits(
      cached.now_ns, cached.missed, query.answer_by_ns,
      cached.deployment.longest_lane_of(cached.columns, query.rows), query.priority);
  for (std::uint32_t row = cached.first_missed; row < query.rows;) {
    if (!cached.is_missed(row)) {
      ++row;
      continue;
    }
    std::uint32_t end = row + 1;
    while (end < query.rows && cached.is_missed(end)) ++end;
    const std::uint32_t pushed = has_room ? push_run(cached, row, end - row) : 0;
    has_room = pushed > 0;
    if (!has_room) refuse_missed(cached, row);
    row += std::max(pushed, 1U);
  }
  const std::uint32_t made = query.rows - cached.first_missed;
  Flight::release(*cached.flights, 1 + made - cached.missed);
}

// Stores and pushes at most `rows` rows from `first` on: how many.
std::uint32_t Engine::push_run(CachedAsk& cached, std::uint32_t first,
                               std::uint32_t rows) noexcept {
  const Query& query = cached.query;
  WaitingRows entry{cached.handle(), first, {}, query.answer_by_ns, query.arrived_ns, 0,
                    query.priority};
  const auto run = cached.deployment.store(cached.columns, first, rows, entry.lane);
  if (!run) return 0;
  entry.run = *run;
  entry.flight = &cached.flight(first);
  for (std::uint32_t i = 0; i < run->rows; ++i) {
    cached.flight(first + i).block_row = run->first + i;
  }
  if (cached.deployment.push(entry)) return run->rows;
  RowBlocks::release(*run->block, run->rows);
  return 0;
}

// The query's own row is refused. Others that joined it meanwhile may have more time.
void Engine::refuse_missed(CachedAsk& cached, std::uint32_t row) noexcept {
  const WaitingRows refused{cached.handle(), row, {nullptr, 0, 1}};
  cached.deployment.rows_refused.fetch_add(1, std::memory_order_relaxed);
  answer(refused, Cause::kOverload, nullptr, 0, 0, 0, cached.query.arrived_ns);
  if (!push_for_waiter(cached, row)) cached.deployment.leave(1);
}

bool Engine::push_for_waiter(CachedAsk& cached, std::uint32_t row) noexcept {
  Deployment& deployment = cached.deployment;
  Flight& flight = cached.flight(row);
  while (const auto next = cached.cache.pass_on(flight, cached.now_ns)) {
    WaitingRows entry{next->handle,      next->offset,     {nullptr, 0, 1},
                      next->deadline_ns, next->arrived_ns, 0,
                      next->priority};
    if (deployment.admits(cached.now_ns, 1, next->deadline_ns,
                          deployment.lane_of(cached.columns, row), next->priority)) {
      if (const auto run = deployment.store(cached.columns, row, 1, entry.lane)) {
        WaitingRows stored = entry;
        stored.run = *run;
        stored.flight = &flight;
        flight.block_row = run->first;
        if (deployment.push(stored)) {
          deployment.wake_a_driver();  // it looked for its row before this was there
          return true;
        }
        RowBlocks::release(*run->block, 1);
      }
    }
    deployment.rows_refused.fetch_add(1, std::memory_order_relaxed);
    answer(entry, Cause::kOverload, nullptr, 0, 0, 0, cached.now_ns);
  }
  return false;
}

// The other way: answers of rows that have flights. All are kept before anybody is told, so that
// who asks again right away finds them.
void Engine::land(const WaitingRows& entry, Cause cause, const ColumnRows* outputs,
                  std::uint32_t first, Nanos started_ns, std::uint32_t error_id,
                  Nanos now_ns) noexcept {
  const std::uint32_t rows = entry.run.rows;
  for (std::uint32_t i = 0; i < rows; ++i) {
    Flight& flight = flight_of(entry, i);
    flight.cache->land(flight, outputs, first + i, now_ns);
  }
  WaitingRows own = entry;
  own.flight = nullptr;
  answer(own, cause, outputs, first, started_ns, error_id, now_ns);
  for (std::uint32_t i = 0; i < rows; ++i) {
    Flight& flight = flight_of(entry, i);
    for (const Waiter& waiter : flight.waiters) {
      answer({waiter.handle, waiter.offset, {nullptr, 0, 1}}, cause, outputs, first + i, started_ns,
             error_id, now_ns);
    }
    Flight::release(flight, 1);
  }
}

}  // namespace clipper
