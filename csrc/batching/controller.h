// The interface of all batching strategies: which rows from the head of the window, and when.
//
// A controller belongs to one replica. It is pure: no threads, no clock, no logging; time comes
// with the situation. decide(), foresee() and observe() are called by whoever drives the replica,
// one at a time; the bounds (run_bound_ns, drain_ns) may be read from any thread. What batches take
// is learned in a latency model that a controller can hand on to the one that takes its place.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "base/clock.h"
#include "batching/latency_model.h"

namespace clipper {

/// What a controller may know when it decides. The rows wait in order of their deadlines.
struct Situation {
  Nanos now_ns = 0;
  Nanos free_at_ns =
      0;  ///< when a batch bound now would start: now, or the predicted end of the one in flight
  Nanos head_deadline_ns =
      kNever;  ///< when the first waiting row must be complete; kNever: best effort
  Nanos head_arrived_ns = 0;
  std::uint32_t waiting_rows = 0;  ///< rows that wait and are alive, the head included; >= 1
  std::uint64_t arrived_rows =
      0;  ///< rows that have ever arrived here: a monotone counter, to measure load
  Nanos tail_deadline_ns = 0;  ///< of the row that is due last; 0: not known
};

struct Decision {
  enum class Kind : std::uint8_t {
    kRun,   ///< run `rows` rows from the head
    kDrop,  ///< answer the head now: it cannot make its deadline; ask again
    kWait,  ///< run nothing before `until_ns`, unless something arrives or the replica's state
            ///< changes
  };
  Kind kind = Kind::kRun;
  std::uint32_t rows = 1;
  Nanos until_ns = 0;
};

/// One finished batch, as the controller learns from it.
struct Run {
  std::uint32_t rows = 0;
  Nanos start_ns = 0;
  Nanos end_ns = 0;
  bool failed = false;  ///< the model raised: its latency teaches nothing
};

class Controller {
 public:
  /// `known`: what its predecessor has learned; nullptr: it learns from the start.
  explicit Controller(std::shared_ptr<LatencyModel> known = nullptr)
      : known_(known ? std::move(known) : std::make_shared<LatencyModel>()),
        latency_(*known_),
        takes_over_(latency_.is_warm()) {}
  virtual ~Controller() = default;
  Controller(const Controller&) = delete;
  Controller& operator=(const Controller&) = delete;

  /// REQUIRES: situation.waiting_rows >= 1, and the head has not expired.
  [[nodiscard]] virtual Decision decide(const Situation& situation) noexcept = 0;
  /// What decide() would say now; nothing comes of it, and nothing is learned by it. REQUIRES: as
  /// decide().
  [[nodiscard]] virtual Decision foresee(const Situation& situation) const noexcept = 0;
  virtual void observe(const Run& run) noexcept = 0;

  /// What a batch of `rows` will take, as an upper bound that nearly always holds; 0: not known
  /// yet.
  [[nodiscard]] virtual Nanos run_bound_ns(std::uint32_t rows) const noexcept = 0;

  /// What `rows` rows will take in the batches that this controller would form for rows of this
  /// objective (kNever: none); 0: not known yet. The expectation, not a bound.
  [[nodiscard]] virtual Nanos drain_ns(std::uint32_t rows, Nanos slo_ns) const noexcept = 0;

  /// The largest batch it would form now, for rows of this objective.
  [[nodiscard]] virtual std::uint32_t batch_limit(Nanos slo_ns) const noexcept = 0;

  /// Whether admission may trust the bounds: enough has been seen.
  [[nodiscard]] virtual bool is_warm() const noexcept = 0;

  /// For whoever takes its place. Only one of those that share it may observe() from then on.
  [[nodiscard]] const std::shared_ptr<LatencyModel>& shared_latency() const noexcept {
    return known_;
  }

 private:
  const std::shared_ptr<LatencyModel> known_;

 protected:
  LatencyModel& latency_;
  const bool takes_over_;  // from one that had seen enough
};

}  // namespace clipper
