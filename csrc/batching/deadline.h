// The default strategy: knows the deadline of the head and what a batch will take. It takes the
// whole queue as one batch whenever that keeps the head's deadline, drops from the head what stands
// in the way of that, and never leaves an idle replica waiting, with two exceptions: the user asked
// for delayed batching, or the model's fixed cost eats the objective and the replica is under load.
//
// The window that drops from the head: Shen et al., "Nexus: A GPU Cluster Engine for Accelerating
// DNN-Based Video Analysis", SOSP 2019, section 6.3. Unlike there the batch is not capped at half
// the objective: in simulation a cap lets a backlog stand (every batch then runs at the edge, and a
// model with a high fixed cost would have to be deferred on purpose), while taking everything
// clears it. Under overload the rule settles by itself at the best batch b = rate * (SLO - q(b)).
//
// Where the bound forbids even a row that has just come, although most would make it, the same rule
// goes by expectations.
//
// Thread safety: as Controller; what other threads read is the latency model alone.
// Invariants: with a warm model no row is run that its bound puts past its deadline (where runs
// scatter: what nine of ten keep to), except as a probe, or where the bound forbids all; an idle
// replica with an unexpired head runs something at least once in kProbeEvery. Without a delay of
// the user's, a head that came to an idle replica starts within 1.05 l(1).
#pragma once

#include <cstdint>
#include <memory>

#include "batching/controller.h"
#include "batching/latency_model.h"

namespace clipper {

struct DeadlineOptions {
  std::uint32_t max_batch = 65'536;
  /// Delayed batching: a batch that is not full waits until its oldest row is this old, but never
  /// so long that a deadline would be missed. 0: never.
  Nanos delay_ns = 0;
};

class DeadlineController final : public Controller {
 public:
  explicit DeadlineController(DeadlineOptions options = {},
                              std::shared_ptr<LatencyModel> known = nullptr);

  [[nodiscard]] Decision decide(const Situation& situation) noexcept override {
    return decide(situation, noticed_);
  }
  [[nodiscard]] Decision foresee(const Situation& situation) const noexcept override {
    Noticed copy = noticed_;
    return decide(situation, copy);
  }
  void observe(const Run& run) noexcept override;
  [[nodiscard]] Nanos run_bound_ns(std::uint32_t rows) const noexcept override;
  [[nodiscard]] Nanos drain_ns(std::uint32_t rows, Nanos slo_ns) const noexcept override;
  [[nodiscard]] std::uint32_t batch_limit(Nanos slo_ns) const noexcept override;
  [[nodiscard]] bool is_warm() const noexcept override;

  [[nodiscard]] const LatencyModel& latency() const noexcept { return latency_; }

 private:
  struct Plan;

  /// What decisions leave behind for the next ones.
  struct Noticed {
    Nanos probed_ns = -kNever;  // when a probe was sent
    Nanos probing_since_ns = -kNever;
    Nanos longest_slo_ns = 0;        // of the heads seen lately
    Nanos shortest_slo_ns = kNever;  // of the same
    Nanos shortest_seen_ns = 0;
  };

  [[nodiscard]] Decision decide(const Situation& situation, Noticed& noticed) const noexcept;
  [[nodiscard]] Decision decide_best_effort(const Situation& situation,
                                            Noticed& noticed) const noexcept;
  [[nodiscard]] Decision decide_infeasible(const Situation& situation, Nanos start_ns,
                                           Noticed& noticed) const noexcept;
  [[nodiscard]] Nanos believed_slack_ns(Nanos slack_ns) const noexcept;
  [[nodiscard]] Decision decide_by_expectation(const Situation& situation,
                                               Nanos slack_ns) const noexcept;
  [[nodiscard]] std::uint32_t rows_expected_within(Nanos limit_ns,
                                                   std::uint32_t most) const noexcept;
  [[nodiscard]] Decision run_prudently(std::uint32_t rows, Nanos slack_ns) const noexcept;
  [[nodiscard]] bool loses_nobody_by_splitting(const Situation& situation,
                                               const Plan& plan) const noexcept;
  [[nodiscard]] Nanos pause_for_a_burst_ns(const Situation& situation, Nanos slo_ns) const noexcept;
  [[nodiscard]] Nanos delayed_until_ns(const Situation& situation, Nanos slo_ns) const noexcept;
  [[nodiscard]] static bool is_urgent_among_peers(Nanos slo_ns, Noticed& noticed) noexcept;
  void learn_objective(Nanos slo_ns, Nanos now_ns, Noticed& noticed) const noexcept;
  [[nodiscard]] std::uint32_t rows_in_half(Nanos slo_ns) const noexcept;

  const std::uint32_t max_batch_;
  const Nanos delay_ns_;
  Nanos last_run_ns_ = -kNever;  // when the last run ended
  std::uint32_t last_run_rows_ = 0;
  Noticed noticed_;
};

}  // namespace clipper
