// What waits again after its worker died: ordinary rows in the window, suspects one by one.
#include <algorithm>
#include <new>

#include "serving/deployment.h"

namespace clipper {

void Deployment::requeue(WaitingRows entry) {
  if (entry.handle.trial == Trial::kFirst) entry.handle.trial = Trial::kAgain;
  for (std::uint32_t i = 0; entry.flight && i < entry.run.rows; ++i) {
    flight_of(entry, i).ends_ns.store(0, std::memory_order_relaxed);  // it waits again
  }
  const std::scoped_lock lock(window_mutex_);
  put_back(entry);
  arrived_rows_.fetch_add(entry.run.rows, std::memory_order_seq_cst);  // a deferral ends
}

// The same as push(), for a single row that is suspected.
bool Deployment::push_suspect(const WaitingRows& entry) noexcept {
  try {
    const std::scoped_lock lock(window_mutex_);
    if (waiting_requests_.load(std::memory_order_relaxed) >= max_queue()) return false;
    put_back(entry);
  } catch (const std::bad_alloc&) {
    return false;
  }
  arrived_rows_.fetch_add(entry.run.rows, std::memory_order_seq_cst);
  return true;
}

// A suspect and an ordinary batch take turns: many suspects shall not hold up everybody else.
void Deployment::bind_suspect(Batch& batch, Nanos now_ns, std::vector<DroppedRows>& dropped) {
  const bool others_wait = std::any_of(windows_.begin(), windows_.end(),
                                       [](const Window& window) { return !window.empty(); });
  was_suspects_turn_ = !(was_suspects_turn_ && others_wait);
  if (!was_suspects_turn_) return;
  while (!suspects_.empty()) {
    const WaitingRows entry = suspects_.front();
    suspects_.pop_front();
    if (is_dead(entry)) {
      bury(entry, now_ns);
      if (!passed_on_.empty()) put_back_passed();
      continue;
    }
    note_taken(entry);
    if (entry.deadline_ns <= now_ns) {
      rows_expired.fetch_add(entry.run.rows, std::memory_order_relaxed);
      drop_or_pass(entry, Cause::kCrash, now_ns, dropped);
      continue;
    }
    batch.entries.assign(1, entry);
    batch.rows = entry.run.rows;
    batch.staging = {};
    batch.lane = entry.lane;
    batch.bound_ns = batch.replica->controller(entry.lane).run_bound_ns(batch.rows);
    return;
  }
}

bool Deployment::has_live_replica() const noexcept {
  return std::any_of(replicas_.begin(), replicas_.end(),
                     [](const auto& replica) { return replica->available_at_ns() != kNever; });
}

bool Deployment::has_available_replica(Nanos now_ns) const noexcept {
  return std::any_of(replicas_.begin(), replicas_.end(), [now_ns](const auto& replica) {
    return replica->available_at_ns() <= now_ns;
  });
}

bool Deployment::has_idle_replica(Nanos now_ns) const noexcept {
  return std::any_of(replicas_.begin(), replicas_.end(), [now_ns](const auto& replica) {
    return !replica->has_batches() && replica->available_at_ns() <= now_ns;
  });
}

}  // namespace clipper
