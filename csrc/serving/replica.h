// One copy of a model: its controller, its batches in flight, and the thread that drives it when no
// caller leads.
//
// Thread safety: whoever try_drive() lets in is the driver, and alone touches what is marked
// "driver" until stop_driving(). The rest may be called from any thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/clock.h"
#include "base/event_fd.h"
#include "base/histogram.h"
#include "batching/controller.h"
#include "serving/batch.h"
#include "serving/loan.h"

namespace clipper {

class Deployment;

class Replica {
 public:
  static constexpr std::uint32_t kMostInFlight = 2;

  /// One controller for each lane.
  Replica(Deployment& deployment, std::vector<std::unique_ptr<Controller>> controllers,
          std::uint32_t most_in_flight);

  [[nodiscard]] bool try_drive() noexcept {
    // Sequentially consistent, as is stop_driving: a caller that pushes rows and finds the replica
    // driven relies on its driver to see them when it stops.
    return !driven_.load(std::memory_order_relaxed) &&
           !driven_.exchange(true, std::memory_order_seq_cst);
  }
  void stop_driving() noexcept { driven_.store(false, std::memory_order_seq_cst); }
  [[nodiscard]] bool is_driven() const noexcept { return driven_.load(std::memory_order_seq_cst); }

  /// Driver: a batch to fill; nullptr: as many are in flight as may be.
  [[nodiscard]] Batch* free_batch() noexcept;
  /// Driver: the batch runs from now on.
  void start(Batch& batch) noexcept;
  /// Driver: it has run; teaches the controller.
  void end(Batch& batch, Nanos now_ns, bool failed) noexcept;

  [[nodiscard]] bool has_batches() const noexcept {
    return in_flight_.load(std::memory_order_relaxed) > 0;
  }
  /// When a batch that is bound now would start: now, or when those in flight should be done.
  [[nodiscard]] Nanos free_at_ns(Nanos now_ns) const noexcept;
  /// The same by what is expected, not by what nearly always holds.
  [[nodiscard]] Nanos expected_free_at_ns(Nanos now_ns) const noexcept;

  /// Parks the replica's own thread until rows wait that nobody drives, `until_ns`, or stop().
  /// After a deferral (`seen_arrivals` given) only rows newer than those count. False: stopped.
  /// While leaders come regularly it dozes: it looks by itself now and then, and leaves them the
  /// rows for the length of a doze.
  [[nodiscard]] bool wait_for_work(const Clock& clock, Nanos until_ns,
                                   const std::uint64_t* seen_arrivals) noexcept;
  /// Sees to it that the replica's thread looks for work: false, it is awake. One system call,
  /// unless the rows may wait for somebody to lead (`patient`) and the thread dozes.
  bool wake_thread(bool patient) noexcept;
  /// The replica's thread: it was awake, and a leader had taken everything.
  void note_needless_wake() noexcept { patience_.store(kMostPatience, std::memory_order_relaxed); }
  void stop() noexcept;

  // For a thread that sleeps in poll() instead of wait_for_work(), because a worker may wake it
  // too.

  /// From now on whoever wakes the thread rings this bell. Before serving only. Throws
  /// kOutOfMemory.
  EventFd& make_bell();
  /// The thread is about to sleep: whoever pushes rows from now on rings. Look for work once more
  /// afterwards.
  void announce_sleep() noexcept { asleep_.store(kAsleep, std::memory_order_seq_cst); }
  void note_awake() noexcept { asleep_.store(kAwake, std::memory_order_relaxed); }
  /// Whether rows wait; after a deferral (`seen_arrivals` given) whether newer ones came, or
  /// another controller.
  [[nodiscard]] bool has_work(const std::uint64_t* seen_arrivals) noexcept;

  /// Nothing can run here before `at_ns`: its worker has to start; kNever: it will not start again.
  void set_available_at(Nanos at_ns) noexcept {
    available_at_ns_.store(at_ns, std::memory_order_seq_cst);
  }
  [[nodiscard]] Nanos available_at_ns() const noexcept {
    return available_at_ns_.load(std::memory_order_seq_cst);
  }
  /// The seat of its thread, where callers may drive a worker.
  [[nodiscard]] Loan& loan() noexcept { return loan_; }
  [[nodiscard]] bool is_stopped() const noexcept { return stop_.load(std::memory_order_acquire); }

  [[nodiscard]] Deployment& deployment() noexcept { return deployment_; }
  [[nodiscard]] Controller& controller(Lane lane = 0) noexcept {
    return *current_[lane].load(std::memory_order_acquire);
  }
  [[nodiscard]] const Controller& controller(Lane lane = 0) const noexcept {
    return *current_[lane].load(std::memory_order_acquire);
  }
  /// Lets another controller decide from now on, whatever runs. It should share the latency model
  /// of the one before, which lives on for whoever reads it, as long as the replica.
  void set_controller(Lane lane, std::unique_ptr<Controller> controller);
  /// Whether its batches of some lane have shown what they take.
  [[nodiscard]] bool is_warm() const noexcept;

  // Written by the driver alone, read by anyone.
  std::atomic<std::uint64_t> batches_run{0};
  std::atomic<std::uint64_t> rows_run{0};
  std::atomic<std::uint64_t> batches_gathered{0};
  std::atomic<std::uint64_t> batches_failed{0};
  std::atomic<Nanos> busy_ns{0};
  Histogram batch_rows;
  Histogram run_ns;

  // Opaque: the other side's runner of this replica.
  void* owner = nullptr;

 private:
  void predict_end(const Batch& batch, Nanos begins_ns) noexcept;

  // The states of the replica's thread, in its futex word.
  static constexpr std::uint32_t kAwake = 0;
  static constexpr std::uint32_t kAsleep = 1;
  static constexpr std::uint32_t kDozing = 2;
  static constexpr std::uint32_t kMostPatience = 4;  // dozes in vain before it ends

  [[nodiscard]] bool has_undriven_rows() const noexcept;
  void rouse() noexcept;
  [[nodiscard]] bool doze(const Clock& clock, Nanos until_ns) noexcept;
  [[nodiscard]] bool is_patient() const noexcept {
    return patience_.load(std::memory_order_relaxed) > 0;
  }

  Deployment& deployment_;
  std::array<std::atomic<Controller*>, kMaxLanes> current_{};  // nullptr: no such lane
  std::mutex set_mutex_;                                       // guards what follows
  std::vector<std::unique_ptr<Controller>> kept_controllers_;  // all there ever were
  const std::uint32_t most_in_flight_;
  std::array<Batch, kMostInFlight> batches_;
  std::atomic<std::uint32_t> in_flight_{0};
  std::atomic<Nanos> predicted_end_ns_{0};
  std::atomic<Nanos> expected_end_ns_{0};
  std::atomic<Nanos> available_at_ns_{0};
  std::unique_ptr<EventFd> bell_;
  Loan loan_;
  alignas(64) std::atomic<bool> driven_{false};
  alignas(64) std::atomic<std::uint32_t> asleep_{kAwake};  // futex word of the replica's thread
  std::atomic<bool> stop_{false};
  std::atomic<bool> has_new_controller_{false};  // what was deferred may be due now
  std::atomic<std::uint32_t> patience_{0};       // written by the replica's thread alone
};

}  // namespace clipper
