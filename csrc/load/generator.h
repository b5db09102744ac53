// Open-loop load: asks an application at times that were drawn beforehand, whatever has been
// answered by then, and notes what became of every arrival.
//
// Free of coordinated omission: deadlines and latencies count from when a query should have come,
// not from when a late generator got round to asking. Source: Tene, "How NOT to Measure Latency",
// Strange Loop 2015. How late it was is noted too, so that a reader sees whether it kept up.
//
// Nobody leads its queries and nobody waits for one of them: replicas' own threads run them, and
// the engine's reaper ends those that are late. The thread in run() spins before an arrival, and
// sleeps when the next one is far; wanting neither an interpreter nor a lock, it is held up by the
// kernel alone.
//
// Thread safety: stop(), asked() and ended() from any thread, the rest from one. The engine, the
// application, the plan and the record must live as long.
// Invariant: every arrival is noted at most once, and all of them once run() has returned without a
// stop().
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "base/errors.h"
#include "queue/mailbox.h"
#include "serving/engine.h"

namespace clipper {

/// What is asked, and when. One row an arrival.
struct LoadPlan {
  const Nanos* at_ns = nullptr;           ///< ascending, counted from the start
  const std::uint32_t* chosen = nullptr;  ///< which row of the pool each arrival asks
  std::size_t arrivals = 0;
  const RowSpec* spec = nullptr;     ///< of the application's input
  const ColumnRows* pool = nullptr;  ///< rows of it, column by column
  Nanos budget_ns = kNever;          ///< from the scheduled arrival to the deadline
};

/// What became of it: arrays of one entry an arrival.
struct LoadRecord {
  Nanos* latency_ns = nullptr;   ///< from the scheduled arrival until its end is in our hands
  Nanos* late_ns = nullptr;      ///< from the scheduled arrival until it was asked
  Cause* causes = nullptr;       ///< kNone: answered; kPending: it has not ended, or was not asked
  float* confidences = nullptr;  ///< of answers
  std::uint32_t* models = nullptr;  ///< bit m: the application's m-th model answered
  std::byte* outputs = nullptr;     ///< prepared rows of `layout`; nullptr: answers are not kept
  const OutputLayout* layout = nullptr;
};

class LoadGenerator {
 public:
  /// Fills the record's causes with kPending. Throws std::bad_alloc.
  LoadGenerator(Engine& engine, Application& application, const LoadPlan& plan,
                const LoadRecord& record);
  /// REQUIRES: nothing is open.
  ~LoadGenerator() = default;
  LoadGenerator(const LoadGenerator&) = delete;
  LoadGenerator& operator=(const LoadGenerator&) = delete;

  /// Asks everything and returns when all of it has ended, or after stop() when what was open is
  /// withdrawn. An engine that closes stops it too. Once.
  void run() noexcept;
  /// Ends run() soon.
  void stop() noexcept;

  /// The parts of run(), for a caller with a clock of its own. The schedule starts at `start_ns`.
  void begin(Nanos start_ns) noexcept { start_ns_ = start_ns; }
  /// Asks all that is due and takes what has ended. Returns when the next arrival is due; kNever:
  /// all are asked.
  Nanos turn() noexcept;

  [[nodiscard]] std::size_t asked() const noexcept {
    return asked_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] std::size_t ended() const noexcept {
    return ended_.load(std::memory_order_relaxed);
  }

 private:
  void ask(std::size_t arrival, Nanos due_ns, Nanos now_ns) noexcept;
  void take_ended() noexcept;
  void note(std::size_t arrival, Query& query, Nanos now_ns) noexcept;
  void note_end(std::size_t arrival, Cause cause, Nanos latency_ns) noexcept;
  void withdraw_open() noexcept;
  void wait(Nanos due_ns) noexcept;

  Engine& engine_;
  Application& application_;
  const LoadPlan plan_;
  const LoadRecord record_;
  Mailbox mailbox_;
  std::vector<Query*> open_;  // by arrival; nullptr: not asked, or ended
  Nanos start_ns_ = 0;
  std::atomic<bool> stopping_{false};
  // Written by the generator's thread alone.
  std::atomic<std::size_t> asked_{0};
  std::atomic<std::size_t> ended_{0};
};

}  // namespace clipper
