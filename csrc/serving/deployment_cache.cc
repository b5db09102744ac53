// What a deployment does only where it has a prediction cache: rows that several queries wait for.
//
// A row of a query that has gone is not dead while others wait for it. It goes back to the window
// in the name of the one that is due first, with that one's deadline.
#include <algorithm>

#include "serving/deployment.h"

namespace clipper {
namespace {

// Without a bound to go by, a flight that is due a little later will do: an eighth of its time.
constexpr Nanos kToleratedPart = 8;

class LiveQueries final : public Liveness {
 public:
  explicit LiveQueries(QueryTable& queries) : queries_(queries) {}

  [[nodiscard]] bool is_live(const Handle& handle) const noexcept override {
    Query& query = queries_.at(handle.slot);
    return query.ask(handle.ask).wants(handle) &&
           Query::is_open(query.phase.load(std::memory_order_acquire));
  }

 private:
  QueryTable& queries_;
};

}  // namespace

std::unique_ptr<PredictionCache> Deployment::make_cache() {
  if (options_.cache.bytes == 0) return nullptr;
  return std::make_unique<PredictionCache>(options_.cache, options_.input, output_layout_,
                                           std::make_unique<LiveQueries>(queries_));
}

bool Deployment::may_join(const Flight& flight, Nanos now_ns, Nanos answer_by_ns, Lane lane,
                          Priority priority) const noexcept {
  const Nanos ends_ns = flight.ends_ns.load(std::memory_order_relaxed);
  if (ends_ns != 0) return std::max(ends_ns, now_ns) <= answer_by_ns;
  // It waits. Its row is served no later than one of one's own, if that would be behind it.
  if (priority > flight.owner.priority) return false;
  const Nanos due_ns = flight.owner.deadline_ns;
  if (answer_by_ns >= due_ns) return true;
  bool is_known = false;
  for (const auto& replica : replicas_) {
    const Controller& controller = replica->controller(lane);
    if (!controller.is_warm()) continue;
    is_known = true;
    const auto ahead = waiting_rows() / static_cast<std::uint32_t>(replicas_.size()) + 1;
    const Nanos done_ns = saturating_add(replica->expected_free_at_ns(now_ns),
                                         controller.drain_ns(ahead, answer_by_ns - now_ns));
    if (done_ns <= answer_by_ns) return true;
  }
  if (is_known || due_ns == kNever) return false;
  return answer_by_ns >= due_ns - (due_ns - flight.owner.arrived_ns) / kToleratedPart;
}

/// `row`, of a query that is gone, in the name of the next; nullopt: nobody waits for it.
std::optional<WaitingRows> Deployment::pass_on(const WaitingRows& row, Nanos now_ns) noexcept {
  Flight& flight = *row.flight.get();
  const std::optional<Waiter> next = flight.cache->pass_on(flight, now_ns);
  if (!next) return std::nullopt;
  WaitingRows passed = row;
  passed.handle = next->handle;
  passed.handle.trial = row.handle.trial;
  passed.offset = next->offset;
  passed.deadline_ns = next->deadline_ns;
  passed.arrived_ns = next->arrived_ns;
  passed.priority = next->priority;
  return passed;
}

namespace {

WaitingRows row_of(const WaitingRows& entry, std::uint32_t index) {
  WaitingRows row = entry;
  row.flight = &flight_of(entry, index);
  row.offset += index;
  row.run.first += index;
  row.run.rows = 1;
  return row;
}

}  // namespace

/// Nobody is told. The window may be in the middle of a sweep: what others wait for is put back
/// later.
void Deployment::bury_or_pass(const WaitingRows& entry, Nanos now_ns) {
  for (std::uint32_t i = 0; i < entry.run.rows; ++i) {
    WaitingRows row = row_of(entry, i);
    if (const auto passed = pass_on(row, now_ns)) {
      passed_on_.push_back(*passed);
    } else {
      release(row);
    }
  }
}

void Deployment::put_back_passed() {
  for (const WaitingRows& row : passed_on_) put_back(row);
  passed_on_.clear();
}

/// The head's query is answered with `cause`; its rows only if nobody else waits for them.
void Deployment::drop_or_pass_head(Window& window, Cause cause, Nanos now_ns,
                                   std::vector<DroppedRows>& dropped) {
  const std::size_t already = dropped.size();
  drop_head(window, cause, dropped);
  if (cache_ == nullptr || !dropped.back().entry.flight) return;
  const WaitingRows entry = dropped.back().entry;
  dropped.resize(already);
  drop_or_pass(entry, cause, now_ns, dropped);
}

/// The same for an entry that is off the window.
void Deployment::drop_or_pass(const WaitingRows& entry, Cause cause, Nanos now_ns,
                              std::vector<DroppedRows>& dropped) {
  if (!entry.flight) return dropped.push_back({entry, cause});
  for (std::uint32_t i = 0; i < entry.run.rows; ++i) {
    WaitingRows row = row_of(entry, i);
    const auto passed = pass_on(row, now_ns);
    row.flight = nullptr;
    if (passed) {
      row.run.block = nullptr;
      put_back(*passed);
    }
    dropped.push_back({row, cause});
  }
}

/// A batch is about to run: who asks for one of its rows knows when it will be answered.
void Deployment::note_end(const Batch& batch, Nanos ends_ns) noexcept {
  for (const WaitingRows& entry : batch.entries) {
    if (!entry.flight) continue;
    for (std::uint32_t i = 0; i < entry.run.rows; ++i) {
      flight_of(entry, i).ends_ns.store(ends_ns, std::memory_order_relaxed);
    }
  }
}

}  // namespace clipper
