// Rows of a stage whose model has a prediction cache.
//
// Each row is looked up. A hit is copied into the query, from where its successors take it, and
// ends on the spot; a row that others' evaluation answers waits for that; the rest are stored and
// pushed, each with a flight. Consecutive rows that fare alike go together.
//
// A row ends once: a hit here, by the thread that looked it up; a joined row by whoever lands the
// flight; a missed one as every row that was pushed. All three are decided here. Where successors
// take the query's input from where this stage had it: for a hit that is where it was looked up
// from, which stays for as long as the walk does; for a joined row see Engine::land().
//
// A chain of hits is followed by recursion, each time to a stage that stands later in the plan: so
// it is as deep as there are stages, at most.
#include <cstdint>

#include "serving/cached_ask.h"
#include "serving/walk.h"

namespace clipper {

void Walk::start_cached(std::uint16_t stage, const ColumnRows* columns, std::uint32_t offset,
                        std::uint32_t rows, Nanos deadline_ns) noexcept {
  using Found = PredictionCache::Found;
  Ask& ask = query_.ask(stage);
  Deployment& deployment = *ask.deployment();
  Engine::CachedAsk cached{query_,  ask,    stage, deployment,  *deployment.cache(),
                           columns, offset, rows,  deadline_ns, now_ns_,
                           now_ns_};
  // Else it was withdrawn: the owner lets go of what is not decided.
  if (!ask.begin_write(cached.handle())) return;
  std::uint32_t begin = 0;
  Found found = cached.look_up(0);
  for (std::uint32_t row = 1; row <= rows; ++row) {
    const Found next = row < rows ? cached.look_up(row) : found;
    if (row < rows && next == found) continue;
    if (found == Found::kMissed) {
      push_missed(cached, begin, row - begin);
    } else if (found == Found::kJoined) {
      stages_.note_decided(stage, offset + begin, row - begin);
      note_waiting(stage, deployment);  // who would lead for the flight's owner may be gone
    } else {
      end_known(cached, begin, row - begin, found == Found::kHit ? Cause::kNone : Cause::kOverload);
    }
    begin = row;
    found = next;
  }
  cached.release_flights();
  ask.end_write();
  if (cached.missed < rows) deployment.leave(rows - cached.missed);
}

void Walk::end_known(const Engine::CachedAsk& cached, std::uint32_t first, std::uint32_t rows,
                     Cause cause) noexcept {
  const std::uint32_t offset = cached.offset + first;
  stages_.note_decided(cached.index, offset, rows);
  cached.ask.set_cause(offset, rows, cause);
  follow({cached.index, offset, rows, cause, nullptr, 0, {}, cached.columns, first});
  if (cached.ask.publish(rows) && query_.asks_left.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    query_.finish(Cause::kNone, now_ns_);
  }
}

// The rows of a query that miss in several places are admitted by themselves each.
void Walk::push_missed(Engine::CachedAsk& cached, std::uint32_t first,
                       std::uint32_t rows) noexcept {
  Deployment& deployment = cached.deployment;
  const Lane lane = deployment.longest_lane_of(cached.columns, cached.rows);
  bool has_room = deployment.admits(now_ns_, rows, cached.answer_by_ns, lane, query_.priority);
  bool is_waiting = false;
  for (const std::uint32_t end = first + rows; first < end;) {
    const std::uint32_t pushed = has_room ? engine_.push_run(cached, first, end - first) : 0;
    has_room = pushed > 0;
    is_waiting = is_waiting || has_room;
    const std::uint32_t decided = has_room ? pushed : 1;
    stages_.note_decided(cached.index, cached.offset + first, decided);
    if (!has_room) engine_.refuse_missed(cached, first);
    first += decided;
  }
  if (is_waiting) return note_waiting(cached.index, deployment);
  flush_if_late(deployment);  // what was refused may have been pushed for others that wait for it
}

}  // namespace clipper
