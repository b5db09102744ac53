#include "isolation/worker_driver.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace clipper {
namespace {

void relax() noexcept { __builtin_ia32_pause(); }

timespec to_timespec(Nanos left_ns) noexcept {
  return {static_cast<time_t>(left_ns / kSecond), static_cast<long>(left_ns % kSecond)};
}

}  // namespace

WorkerDriver::WorkerDriver(Engine& engine, Replica& replica, WorkerLink& link,
                           const DriverOptions& options)
    : engine_(engine),
      replica_(replica),
      link_(link),
      options_(options),
      wake_bell_(replica.make_bell()) {}

LinkEvent WorkerDriver::run() {
  for (;;) {
    LinkEvent event = std::exchange(carried_, LinkEvent::kNothing);
    if (event == LinkEvent::kNothing) event = take_finished();
    if (event != LinkEvent::kNothing) return event;
    if (has_died_) return LinkEvent::kDied;
    if (is_overdue()) return LinkEvent::kTimedOut;
    if (replica_.is_stopped()) {
      if (count_ == 0) return LinkEvent::kStopped;
    } else {
      bind_batches();
    }
    wait();
  }
}

bool WorkerDriver::is_overdue() const noexcept {
  return count_ > 0 && engine_.clock().now_ns() >= due_ns();
}

Nanos WorkerDriver::due_ns() const noexcept {
  return saturating_add(in_flight_[0].batch->start_ns, options_.timeout_ns);
}

LinkEvent WorkerDriver::take_finished() {
  while (count_ > 0 && (has_rung_ || has_died_)) {
    Batch* batch = in_flight_[0].batch;
    switch (link_.take(batch->rows)) {
      case Reply::kNone:
        has_rung_ = false;
        return LinkEvent::kNothing;
      case Reply::kNonsense:
        return LinkEvent::kNonsense;
      case Reply::kModelError:
        failed_ = batch;
        pop_front();
        return LinkEvent::kModelError;
      case Reply::kOutputs:
        if (batch->entries.front().handle.trial == Trial::kSuspect) {
          Quarantine& quarantine = replica_.deployment().quarantine();
          quarantine.acquit(quarantine.name_of(batch->run()));
        }
        pop_front();
        was_busy_ = true;
        engine_.complete(*batch, link_.outputs());
    }
  }
  return LinkEvent::kNothing;
}

void WorkerDriver::pop_front() noexcept {
  in_flight_[0] = in_flight_[1];
  --count_;
}

void WorkerDriver::fail_batch(std::uint32_t error_id) {
  if (failed_ != nullptr) engine_.fail(*failed_, Cause::kModelError, error_id);
  failed_ = nullptr;
}

// ---- binding ------------------------------------------------------------------------------------

bool WorkerDriver::may_bind(Nanos now_ns) const noexcept {
  if (count_ == 0) return true;
  return count_ < options_.most_in_flight && now_ns >= bind_at_ns(now_ns) &&
         !replica_.deployment().has_idle_replica(now_ns);
}

Nanos WorkerDriver::bind_at_ns(Nanos now_ns) const noexcept {
  return replica_.expected_free_at_ns(now_ns) - kBindAhead;
}

void WorkerDriver::bind_batches() {
  Deployment& deployment = replica_.deployment();
  was_deferred_ = false;
  retry_at_ns_ = kNever;
  while (may_bind(engine_.clock().now_ns())) {
    if (count_ > 0 && deployment.waiting_rows() == 0) break;
    seen_arrivals_ = deployment.arrived_rows();
    Batch* batch = engine_.drive_for_another(replica_, retry_at_ns_);
    if (batch == nullptr) {
      was_deferred_ = retry_at_ns_ != kNever;
      return;
    }
    Engine::release_driver(replica_);
    if (!link_.post(batch->run())) {
      engine_.fail(*batch, Cause::kOverload, 0);
      continue;
    }
    const Nanos expected_ns = replica_.controller(batch->lane).drain_ns(batch->rows, kNever);
    in_flight_[count_++] = {batch, expected_ns};
  }
  // Rows that came while we drove were left to us, and we have our hands full.
  if (deployment.waiting_rows() > 0) deployment.wake_a_driver();
}

// ---- waiting ------------------------------------------------------------------------------------

void WorkerDriver::wait() noexcept {
  const Nanos now_ns = engine_.clock().now_ns();
  const bool listens = !replica_.is_stopped() && may_bind(now_ns);
  if (spin(listens) || (listens && spin_for_rows())) return;
  if (listens) {
    replica_.announce_sleep();
    if (replica_.is_stopped() || replica_.has_work(was_deferred_ ? &seen_arrivals_ : nullptr)) {
      replica_.note_awake();
      return;
    }
  }
  if (listens && lends()) {
    sleep_lending();
    return replica_.note_awake();
  }
  Nanos until_ns = listens ? retry_at_ns_ : kNever;
  if (count_ > 0) {
    until_ns = std::min(until_ns, due_ns());
    if (!listens && count_ < options_.most_in_flight && !replica_.is_stopped()) {
      until_ns = std::min(until_ns, bind_at_ns(now_ns));
    }
  }
  sleep_until(until_ns);
  if (listens) replica_.note_awake();
}

// A sleep costs some 20 us to wake from; the answer may be nearer.
bool WorkerDriver::spin(bool listens) noexcept {
  if (count_ == 0 || options_.spin_ns <= 0 || in_flight_[0].expected_ns == 0) return false;
  const Nanos end_ns = in_flight_[0].batch->start_ns + in_flight_[0].expected_ns;
  if (end_ns - engine_.clock().now_ns() > options_.spin_ns) return false;
  const Nanos until_ns = end_ns + options_.spin_ns / 2;
  while (engine_.clock().now_ns() < until_ns) {
    has_rung_ = link_.finished_bell().drain() > 0;
    if (has_rung_ || replica_.loan().is_wanted()) return true;
    if (listens && !was_deferred_ && replica_.deployment().waiting_rows() > 0) return true;
    relax();
  }
  return false;
}

// A caller that asks again as soon as it has its answer comes within microseconds. While that goes
// on, this thread stays awake for it; else it tries now and then whether it would be worth it.
bool WorkerDriver::spin_for_rows() noexcept {
  constexpr std::uint32_t kMostPatience = 8;
  constexpr std::uint32_t kTryOneIn = 64;
  if (count_ > 0 || !was_busy_ || was_deferred_ || options_.spin_ns <= 0) return false;
  was_busy_ = false;
  if (patience_ == 0 && ++idle_turns_ % kTryOneIn != 0) return false;
  const Nanos until_ns = engine_.clock().now_ns() + options_.spin_ns / 2;
  while (engine_.clock().now_ns() < until_ns) {
    if (replica_.deployment().waiting_rows() > 0 || replica_.is_stopped()) {
      patience_ = kMostPatience;
      return true;
    }
    relax();
  }
  if (patience_ > 0) --patience_;
  return false;
}

void WorkerDriver::sleep_until(Nanos until_ns) noexcept {
  std::array<pollfd, 3> ends{pollfd{link_.finished_bell().fd(), POLLIN, 0},
                             pollfd{wake_bell_.fd(), POLLIN, 0}, pollfd{options_.pidfd, POLLIN, 0}};
  const timespec left =
      to_timespec(std::clamp<Nanos>(until_ns - engine_.clock().now_ns(), 0, 3600 * kSecond));
  static_cast<void>(ppoll(ends.data(), ends.size(), &left, nullptr));
  if (ends[0].revents != 0 && link_.finished_bell().drain() > 0) has_rung_ = true;
  if (ends[1].revents != 0) wake_bell_.drain();
  // What it finished before it died is taken first.
  has_died_ = has_died_ || (ends[2].revents & POLLIN) != 0;
}

// ---- the seat lent to callers -------------------------------------------------------------------

bool WorkerDriver::lends() const noexcept {
  return count_ == 0 && !was_deferred_ && replica_.deployment().options().callers_carry;
}

void WorkerDriver::sleep_lending() noexcept {
  replica_.loan().offer(*this);
  // Not for the worker's doorbell: nothing is in flight, or a caller listens to it.
  std::array<pollfd, 2> ends{pollfd{wake_bell_.fd(), POLLIN, 0}, pollfd{options_.pidfd, POLLIN, 0}};
  static_cast<void>(ppoll(ends.data(), ends.size(), nullptr, nullptr));
  if (!replica_.loan().reclaim()) wait_for_the_seat();
  wake_bell_.drain();
  has_died_ = has_died_ || (ends[1].revents & POLLIN) != 0;
}

void WorkerDriver::wait_for_the_seat() noexcept {
  seat_bell_.signal();
  while (!replica_.loan().is_home()) {
    wake_bell_.drain();
    // It may have come home, and rung, between the two.
    if (replica_.loan().is_home()) break;
    pollfd end{wake_bell_.fd(), POLLIN, 0};
    static_cast<void>(ppoll(&end, 1, nullptr, nullptr));
  }
}

bool WorkerDriver::carry(Query& query, Nanos until_ns) noexcept {
  bool goes_on = true;
  while (goes_on && !has_carried(query)) {
    const Nanos now_ns = engine_.clock().now_ns();
    if (replica_.loan().is_wanted() || replica_.is_stopped() || is_overdue() ||
        now_ns >= until_ns) {
      break;
    }
    if (count_ == 0) bind_batches();
    if (count_ == 0) break;  // nothing may run now, or somebody else runs it
    goes_on = wait_for_answer(until_ns);
  }
  const bool leaves_nothing = count_ == 0 && carried_ == LinkEvent::kNothing && !was_deferred_ &&
                              replica_.deployment().waiting_rows() == 0;
  if (!leaves_nothing) {
    replica_.loan().hand_over();
    wake_bell_.signal();
  } else if (!replica_.loan().give_back()) {
    wake_bell_.signal();
  }
  return goes_on;
}

/// Takes what is finished. Whether the query's owner need not wait any more, or the thread must see
/// to what happened.
bool WorkerDriver::has_carried(const Query& query) noexcept {
  carried_ = take_finished();
  return carried_ != LinkEvent::kNothing || query.is_done();
}

/// False: a signal came.
bool WorkerDriver::wait_for_answer(Nanos until_ns) noexcept {
  if (spin(false)) return true;
  std::array<pollfd, 2> ends{pollfd{link_.finished_bell().fd(), POLLIN, 0},
                             pollfd{seat_bell_.fd(), POLLIN, 0}};
  const Nanos wake_ns = std::min(until_ns, due_ns());
  const timespec left =
      to_timespec(std::clamp<Nanos>(wake_ns - engine_.clock().now_ns(), 0, 3600 * kSecond));
  const bool was_interrupted = ppoll(ends.data(), ends.size(), &left, nullptr) < 0;
  if (was_interrupted) return errno != EINTR;
  if (ends[0].revents != 0 && link_.finished_bell().drain() > 0) has_rung_ = true;
  if (ends[1].revents != 0) seat_bell_.drain();  // perhaps an old ring
  return true;
}

// ---- before serving -----------------------------------------------------------------------------

LinkEvent WorkerDriver::rehearse(const ColumnRows* source, std::uint32_t rows, Nanos& start_ns,
                                 Nanos& end_ns) {
  RowBlocks& staging = replica_.deployment().staging();
  const std::optional<RowRun> run = staging.reserve(rows, source, 0);
  if (!run) throw Error(ErrorCode::kOutOfMemory, "no memory for the rows of a rehearsal");
  staging.write(*run, source, 0);
  start_ns = engine_.clock().now_ns();
  const Nanos due_ns = saturating_add(start_ns, options_.timeout_ns);
  LinkEvent event = link_.post(*run) ? LinkEvent::kNothing : LinkEvent::kNonsense;
  while (event == LinkEvent::kNothing) {
    const Reply reply = has_rung_ || has_died_ ? link_.take(rows) : Reply::kNone;
    has_rung_ = false;
    end_ns = engine_.clock().now_ns();
    if (reply == Reply::kOutputs) break;
    if (reply == Reply::kModelError) {
      event = LinkEvent::kModelError;
    } else if (reply == Reply::kNonsense) {
      event = LinkEvent::kNonsense;
    } else if (has_died_) {
      event = LinkEvent::kDied;
    } else if (replica_.is_stopped()) {
      event = LinkEvent::kStopped;
    } else if (end_ns >= due_ns) {
      event = LinkEvent::kTimedOut;
    } else {
      sleep_until(due_ns);
    }
  }
  RowBlocks::release(*run->block, rows);
  return event;
}

// ---- after the worker's end ---------------------------------------------------------------------

const WorkerDriver::InFlight* WorkerDriver::blamed() const noexcept {
  const std::uint64_t running = link_.running();
  const std::uint64_t place = running - link_.taken();  // 1: the oldest
  return place >= 1 && place <= count_ ? &in_flight_[place - 1] : nullptr;
}

std::uint32_t WorkerDriver::blamed_rows() const noexcept {
  const InFlight* found = blamed();
  return found == nullptr ? 0 : found->batch->rows;
}

Hash128 WorkerDriver::blamed_input() const noexcept {
  const InFlight* found = blamed();
  if (found == nullptr) return {};
  return replica_.deployment().quarantine().name_of(found->batch->run());
}

std::vector<Hash128> WorkerDriver::give_back(Nanos runnable_at_ns, std::uint32_t error_id) {
  const InFlight* culprit = blamed();
  std::vector<Hash128> refused;
  for (std::uint32_t i = 0; i < count_; ++i) {
    const auto more =
        engine_.retry(*in_flight_[i].batch, &in_flight_[i] == culprit, runnable_at_ns, error_id);
    refused.insert(refused.end(), more.begin(), more.end());
  }
  count_ = 0;
  return refused;
}

}  // namespace clipper
