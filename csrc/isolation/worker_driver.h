// Drives a replica whose batches run in a worker process: claim -> post -> wait -> check ->
// complete.
//
// The loop of a replica's thread, without the interpreter. It comes back for what is not a batch's
// ordinary end: a model error (whose text the other side keeps), the worker's death, its silence,
// its nonsense, or the end of the replica. Batches that are in flight then stay the driver's until
// give_back() or the next run().
//
// The next batch is bound while one runs, but late: kBindAhead before that one should be done, so
// that it is as large and as urgent as can be and the worker never waits for its doorbell; and not
// at all while another replica has nothing to do.
//
// While nothing is in flight the thread lends its seat to a caller that waits anyway, see Loan:
// that saves a wake-up of the thread and one of the caller, where a whole round trip takes two.
//
// Thread safety: one thread's, and whoever has borrowed the replica's seat.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/event_fd.h"
#include "isolation/worker_link.h"
#include "serving/engine.h"
#include "serving/loan.h"

namespace clipper {

enum class LinkEvent : std::uint8_t {
  kNothing,
  kStopped,     ///< the replica was stopped, and nothing is in flight
  kModelError,  ///< the model raised: fail_batch() must follow
  kDied,        ///< the worker's process has ended
  kTimedOut,    ///< a batch takes longer than it may
  kNonsense,    ///< the worker broke the protocol, see text()
};

struct DriverOptions {
  int pidfd = -1;             ///< readable when the worker has ended; -1: nobody watches
  Nanos timeout_ns = kNever;  ///< for one batch
  std::uint32_t most_in_flight = kLinkSlots;
  Nanos spin_ns = 50 * kMicrosecond;  ///< spin when the answer is expected that soon
};

class WorkerDriver final : public Courier {
 public:
  static constexpr Nanos kBindAhead = 300 * kMicrosecond;

  /// Throws kOutOfMemory. The replica must have make_bell()'s bell.
  WorkerDriver(Engine& engine, Replica& replica, WorkerLink& link, const DriverOptions& options);

  /// Serves until something happens; never kNothing.
  [[nodiscard]] LinkEvent run();
  /// Runs rows off the serving path, and says what they took. kNothing: they were answered.
  [[nodiscard]] LinkEvent rehearse(const ColumnRows* source, std::uint32_t rows, Nanos& start_ns,
                                   Nanos& end_ns);

  /// On a caller's thread that has borrowed the seat.
  [[nodiscard]] bool carry(Query& query, Nanos until_ns) noexcept override;

  /// After kModelError of run(): ends that batch.
  void fail_batch(std::uint32_t error_id);
  /// What the model raised, or what was wrong.
  [[nodiscard]] const std::string& text() const noexcept { return link_.text(); }

  /// Rows of the batch that the worker was running; 0: none.
  [[nodiscard]] std::uint32_t blamed_rows() const noexcept;
  /// The input, where the blamed batch is a single row.
  [[nodiscard]] Hash128 blamed_input() const noexcept;
  /// The worker is gone: its batches wait again, see Engine::retry. Returns inputs that are refused
  /// from now on.
  std::vector<Hash128> give_back(Nanos runnable_at_ns, std::uint32_t error_id);

 private:
  struct InFlight {
    Batch* batch = nullptr;
    Nanos expected_ns = 0;  // how long it should run; 0: not known
  };

  [[nodiscard]] LinkEvent take_finished();
  void bind_batches();
  [[nodiscard]] bool may_bind(Nanos now_ns) const noexcept;
  [[nodiscard]] Nanos bind_at_ns(Nanos now_ns) const noexcept;
  void pop_front() noexcept;
  [[nodiscard]] bool is_overdue() const noexcept;
  [[nodiscard]] Nanos due_ns() const noexcept;
  void wait() noexcept;
  [[nodiscard]] bool lends() const noexcept;
  void sleep_lending() noexcept;
  void wait_for_the_seat() noexcept;
  [[nodiscard]] bool has_carried(const Query& query) noexcept;
  [[nodiscard]] bool wait_for_answer(Nanos until_ns) noexcept;
  [[nodiscard]] bool spin(bool listens) noexcept;
  [[nodiscard]] bool spin_for_rows() noexcept;
  void sleep_until(Nanos until_ns) noexcept;
  [[nodiscard]] const InFlight* blamed() const noexcept;

  Engine& engine_;
  Replica& replica_;
  WorkerLink& link_;
  const DriverOptions options_;
  EventFd& wake_bell_;
  EventFd seat_bell_;                             // the thread wants its seat back
  std::array<InFlight, kLinkSlots> in_flight_{};  // oldest first
  std::uint32_t count_ = 0;
  Batch* failed_ = nullptr;
  LinkEvent carried_ = LinkEvent::kNothing;  // what happened to a caller, for the thread
  bool has_died_ = false;
  bool has_rung_ = false;  // since the last look at what is finished: a ring orders memory

  // What the controller said when it would not bind.
  Nanos retry_at_ns_ = kNever;
  std::uint64_t seen_arrivals_ = 0;
  bool was_deferred_ = false;

  bool was_busy_ = false;         // a batch ended since the last sleep
  std::uint32_t patience_ = 0;    // how often rows came while we spun for them, lately
  std::uint32_t idle_turns_ = 0;  // how often we did not even try
};

}  // namespace clipper
