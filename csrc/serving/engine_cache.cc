// Rows of a deployment that has a prediction cache, on their way in and out. For the stages of a
// plan the way in is in walk_cache.cc.
//
// In: each row is a hit (its output is copied, its caller answered), joins a flight, or is missed
// and then stored and pushed like any other, in runs, with a flight. Out: the flights of answered
// rows land, which keeps the outputs and answers whoever joined.
//
// A row that was counted into its deployment leaves it when its own memory does: for hits and
// joined rows, which have none, at the end of enqueue_cached(). A joined row relies on the one
// whose flight it joined, which stays counted.
#include <algorithm>
#include <new>
#include <vector>

#include "serving/cached_ask.h"
#include "serving/engine.h"

namespace clipper {

void Engine::enqueue_cached(Query& query, std::uint16_t index, const ColumnRows* columns,
                            Nanos now_ns) noexcept {
  Ask& ask = query.ask(index);
  Deployment& deployment = *ask.deployment();
  CachedAsk cached{query,   ask, index,      deployment,         *deployment.cache(),
                   columns, 0,   query.rows, query.answer_by_ns, query.arrived_ns,
                   now_ns};
  look_up_rows(cached);
  if (cached.missed > 0) push_missed(cached);
  cached.release_flights();
  if (cached.missed < query.rows) deployment.leave(query.rows - cached.missed);
  answer_refused_waiters();
}

// Answers what is known and joins what is under way.
void Engine::look_up_rows(CachedAsk& cached) noexcept {
  using Found = PredictionCache::Found;
  Query& query = cached.query;
  Ask& ask = cached.ask;
  std::uint32_t done = 0;
  // Nobody else seals it: its owner is still submitting it.
  const bool is_writing = ask.begin_write(cached.handle());
  for (std::uint32_t row = 0; row < cached.rows; ++row) {
    const Found found = cached.look_up(row);
    if (found == Found::kMissed || found == Found::kJoined) continue;
    ask.set_cause(row, 1, found == Found::kHit ? Cause::kNone : Cause::kOverload);
    ++done;
  }
  if (done > 0 && ask.publish(done) &&
      query.asks_left.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    query.finish(Cause::kNone, clock_.now_ns());
  }
  if (is_writing) ask.end_write();
}

void Engine::push_missed(CachedAsk& cached) noexcept {
  bool has_room = cached.deployment.admits(
      cached.now_ns, cached.missed, cached.answer_by_ns,
      cached.deployment.longest_lane_of(cached.columns, cached.rows), cached.query.priority);
  for (std::uint32_t row = cached.first_missed; row < cached.rows;) {
    if (!cached.is_missed(row)) {
      ++row;
      continue;
    }
    std::uint32_t end = row + 1;
    while (end < cached.rows && cached.is_missed(end)) ++end;
    const std::uint32_t pushed = has_room ? push_run(cached, row, end - row) : 0;
    has_room = pushed > 0;
    if (!has_room) refuse_missed(cached, row);
    row += std::max(pushed, 1U);
  }
}

// Stores and pushes at most `rows` rows from `first` on: how many.
std::uint32_t Engine::push_run(CachedAsk& cached, std::uint32_t first,
                               std::uint32_t rows) noexcept {
  WaitingRows entry{cached.handle(),      cached.offset + first, {},
                    cached.answer_by_ns,  cached.arrived_ns,     0,
                    cached.query.priority};
  entry.flight = &cached.flight(first);
  cached.flight(first).block_row = 0;  // in no block yet
  rows = screen(entry, cached.deployment, cached.columns, first, rows);
  if (rows == 0) return 1;  // it was answered
  const auto run = cached.deployment.store(cached.columns, first, rows, entry.lane);
  if (!run) return 0;
  entry.run = *run;
  for (std::uint32_t i = 0; i < run->rows; ++i) {
    cached.flight(first + i).block_row = run->first + i;
  }
  if (cached.deployment.push(entry)) return run->rows;
  RowBlocks::release(*run->block, run->rows);
  return 0;
}

// The query's own row is refused. Others that joined it meanwhile may have more time.
void Engine::refuse_missed(CachedAsk& cached, std::uint32_t row) noexcept {
  const WaitingRows refused{cached.handle(), cached.offset + row, {nullptr, 0, 1}};
  cached.deployment.rows_refused.fetch_add(1, std::memory_order_relaxed);
  answer(refused, Cause::kOverload, nullptr, 0, 0, 0, cached.arrived_ns);
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
    refuse_waiter(entry, cached.now_ns);
  }
  return false;
}

namespace {

struct RefusedWaiter {
  WaitingRows entry;
  Nanos now_ns = 0;
};

// Of one call into the engine, by which all are answered before it returns.
thread_local std::vector<RefusedWaiter> refused_waiters;
thread_local bool is_answering_them = false;

}  // namespace

// Later: its query may go on to stages whose rows are refused, too, whose waiters' queries may go
// on. One after the other they need no stack.
void Engine::refuse_waiter(const WaitingRows& entry, Nanos now_ns) noexcept {
  try {
    refused_waiters.push_back({entry, now_ns});
  } catch (const std::bad_alloc&) {
    answer(entry, Cause::kOverload, nullptr, 0, 0, 0, now_ns);
  }
}

void Engine::answer_refused_waiters() noexcept {
  if (is_answering_them) return;
  is_answering_them = true;
  while (!refused_waiters.empty()) {
    const RefusedWaiter refused = refused_waiters.back();
    refused_waiters.pop_back();
    answer(refused.entry, Cause::kOverload, nullptr, 0, 0, 0, refused.now_ns);
  }
  is_answering_them = false;
}

// The other way: answers of rows that have flights. All are kept before anybody is told, so that
// who asks again right away finds them.
//
// A waiter's query may go on to stages that take its input where this row was read. That is right:
// its row is the same, byte for byte, or it would not have joined; and the rows of the batch are
// released after this.
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
    const RowRun same{entry.run.block, entry.run.first + i, 1};
    for (const Waiter& waiter : flight.waiters) {
      answer({waiter.handle, waiter.offset, same}, cause, outputs, first + i, started_ns, error_id,
             now_ns);
    }
    Flight::release(flight, 1);
  }
}

}  // namespace clipper
