#include "serving/replica.h"

#include <algorithm>
#include <utility>

#include "base/parker.h"
#include "serving/deployment.h"

namespace clipper {
namespace {

// How often a dozing thread looks; rows that nobody leads wait for up to two dozes.
constexpr Nanos kDoze = 250 * kMicrosecond;
constexpr int kQuietDozes = 16;  // without a batch or a row: sleep

/// Adds without a locked instruction: the driver is the only writer.
template <typename T>
void add(std::atomic<T>& counter, T by) noexcept {
  counter.store(counter.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
}

}  // namespace

Replica::Replica(Deployment& deployment, std::vector<std::unique_ptr<Controller>> controllers,
                 std::uint32_t most_in_flight)
    : deployment_(deployment),
      kept_controllers_(std::move(controllers)),
      most_in_flight_(std::clamp(most_in_flight, 1u, kMostInFlight)) {
  for (Batch& batch : batches_) batch.replica = this;
  for (std::size_t lane = 0; lane < kept_controllers_.size(); ++lane) {
    current_[lane].store(kept_controllers_[lane].get(), std::memory_order_relaxed);
  }
}

void Replica::set_controller(Lane lane, std::unique_ptr<Controller> controller) {
  {
    const std::scoped_lock lock(set_mutex_);
    kept_controllers_.push_back(std::move(controller));
    current_[lane].store(kept_controllers_.back().get(), std::memory_order_release);
  }
  // The one before may have put something off that this one would not.
  has_new_controller_.store(true, std::memory_order_seq_cst);
  wake_thread(false);
}

bool Replica::is_warm() const noexcept {
  return std::any_of(current_.begin(), current_.end(), [](const auto& current) {
    const Controller* controller = current.load(std::memory_order_acquire);
    return controller != nullptr && controller->is_warm();
  });
}

Batch* Replica::free_batch() noexcept {
  if (in_flight_.load(std::memory_order_relaxed) == most_in_flight_) return nullptr;
  for (Batch& batch : batches_) {
    if (!batch.in_flight) return &batch;
  }
  return nullptr;
}

void Replica::start(Batch& batch) noexcept {
  batch.in_flight = true;
  const Nanos begins_ns = free_at_ns(batch.start_ns);
  add(in_flight_, 1u);
  predict_end(batch, begins_ns);
}

void Replica::predict_end(const Batch& batch, Nanos begins_ns) noexcept {
  const Nanos expected_ns = controller(batch.lane).drain_ns(batch.rows, kNever);
  predicted_end_ns_.store(begins_ns + batch.bound_ns, std::memory_order_relaxed);
  expected_end_ns_.store(saturating_add(begins_ns, expected_ns), std::memory_order_relaxed);
}

void Replica::end(Batch& batch, Nanos now_ns, bool failed) noexcept {
  // With two in flight the second starts when the first ends, not when it was bound.
  controller(batch.lane).observe({batch.rows, batch.start_ns, now_ns, failed});
  add(batches_run, std::uint64_t{1});
  add(rows_run, std::uint64_t{batch.rows});
  if (batch.was_gathered()) add(batches_gathered, std::uint64_t{1});
  if (failed) add(batches_failed, std::uint64_t{1});
  add(busy_ns, now_ns - batch.start_ns);
  batch_rows.record(batch.rows);
  run_ns.record(now_ns - batch.start_ns);
  batch.in_flight = false;
  in_flight_.store(in_flight_.load(std::memory_order_relaxed) - 1, std::memory_order_relaxed);
  for (Batch& other : batches_) {
    if (!other.in_flight) continue;
    other.start_ns = std::max(other.start_ns, now_ns);
    predict_end(other, other.start_ns);
  }
}

Nanos Replica::free_at_ns(Nanos now_ns) const noexcept {
  if (in_flight_.load(std::memory_order_relaxed) == 0) return std::max(now_ns, available_at_ns());
  return std::max(now_ns, predicted_end_ns_.load(std::memory_order_relaxed));
}

Nanos Replica::expected_free_at_ns(Nanos now_ns) const noexcept {
  if (in_flight_.load(std::memory_order_relaxed) == 0) return std::max(now_ns, available_at_ns());
  return std::max(now_ns, expected_end_ns_.load(std::memory_order_relaxed));
}

bool Replica::wait_for_work(const Clock& clock, Nanos until_ns,
                            const std::uint64_t* seen_arrivals) noexcept {
  for (;;) {
    if (seen_arrivals == nullptr && is_patient() && doze(clock, until_ns)) return !is_stopped();
    // Announce the sleep before the last look: wake_thread() reads the word after its rows are
    // pushed.
    asleep_.store(kAsleep, std::memory_order_seq_cst);
    const bool finds_work = has_work(seen_arrivals);
    const bool stopped = is_stopped();
    if (stopped || finds_work || clock.now_ns() >= until_ns) {
      asleep_.store(kAwake, std::memory_order_relaxed);
      return !stopped;
    }
    static_cast<void>(park_until(asleep_, kAsleep, until_ns));
  }
}

bool Replica::has_work(const std::uint64_t* seen_arrivals) noexcept {
  return has_new_controller_.exchange(false, std::memory_order_seq_cst) ||
         (seen_arrivals != nullptr ? deployment_.arrived_rows() != *seen_arrivals
                                   : has_undriven_rows());
}

EventFd& Replica::make_bell() {
  if (bell_ == nullptr) bell_ = std::make_unique<EventFd>();
  return *bell_;
}

void Replica::rouse() noexcept {
  if (bell_ != nullptr) {
    bell_->signal();
  } else {
    wake_one(asleep_);
  }
}

bool Replica::has_undriven_rows() const noexcept {
  return deployment_.waiting_rows() > 0 && !is_driven();
}

// Whoever submits futures mostly leads a moment later itself, in result(). Waking this thread for
// them costs the caller a system call, some 20 us where the other core is idle; and a thread that
// then asks for the GIL takes it from that leader in mid-batch, for nothing. So while leaders come
// regularly it looks by itself, and takes rows that no batch was run for between two looks.
//
// True: there is something to do. False: it has been quiet for a while, sleep.
bool Replica::doze(const Clock& clock, Nanos until_ns) noexcept {
  std::uint64_t batches = batches_run.load(std::memory_order_relaxed);
  bool was_waiting = false;
  bool was_woken = false;
  asleep_.store(kDozing, std::memory_order_seq_cst);
  for (int quiet = 0; quiet < kQuietDozes;) {
    const bool is_waiting = has_undriven_rows();
    const bool was_led = batches_run.load(std::memory_order_relaxed) != batches;
    const bool is_neglected = is_waiting && was_waiting && !was_led;
    if (was_led) patience_.store(kMostPatience, std::memory_order_relaxed);
    if (is_neglected) patience_.fetch_sub(1, std::memory_order_relaxed);
    if (is_neglected || (is_waiting && was_woken) || is_stopped() || clock.now_ns() >= until_ns) {
      asleep_.store(kAwake, std::memory_order_relaxed);
      return true;
    }
    quiet = was_led || is_waiting || is_driven() ? 0 : quiet + 1;
    batches = batches_run.load(std::memory_order_relaxed);
    was_waiting = is_waiting;
    static_cast<void>(park_until(asleep_, kDozing, std::min(until_ns, clock.now_ns() + kDoze)));
    was_woken = asleep_.exchange(kDozing, std::memory_order_seq_cst) == kAwake;
  }
  return false;
}

bool Replica::wake_thread(bool patient) noexcept {
  std::uint32_t state = asleep_.load(std::memory_order_seq_cst);
  while (state != kAwake) {
    if (patient && state == kDozing) return true;
    // Asleep where leaders used to come: it need not hurry.
    const std::uint32_t next = patient && is_patient() ? kDozing : kAwake;
    if (asleep_.compare_exchange_weak(state, next, std::memory_order_seq_cst)) {
      rouse();
      return true;
    }
  }
  return false;
}

void Replica::stop() noexcept {
  stop_.store(true, std::memory_order_seq_cst);
  asleep_.store(kAwake, std::memory_order_seq_cst);
  rouse();
}

}  // namespace clipper
