// One model under one or several applications in simulated time, and what tests look at.
//
// Thread safety: none needed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "simulation/simulator.h"

namespace clipper::testing {

// Sanitizers make a run some ten times as slow: they see every path in runs that are too short for
// statistics.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr bool kIsLongEnoughForStatistics = false;
inline constexpr double kLength = 0.05;
#else
inline constexpr bool kIsLongEnoughForStatistics = true;
inline constexpr double kLength = 1;
#endif

inline Nanos seconds(double count) { return static_cast<Nanos>(count * kLength * 1e9); }

struct Tally {
  std::uint64_t asked = 0;
  std::uint64_t in_time = 0;
  std::uint64_t given_up_early = 0;  // well before the deadline, because it could not be kept
  std::uint64_t expired = 0;

  [[nodiscard]] double share_in_time() const {
    return static_cast<double>(in_time) / static_cast<double>(asked);
  }
};

class Scene {
 public:
  explicit Scene(std::uint64_t seed = 1) : simulator(seed) {
    simulator.on_run = [this](const SimulatedRun& run) { note(run); };
    simulator.on_answer = [this](const SimulatedAnswer& answer) { note(answer); };
  }

  void deploy(std::vector<SimulatedReplica> replicas, DeploymentOptions options = {}) {
    batch_rows.resize(replicas.size());
    model_ = &simulator.deploy("m", std::move(replicas), std::move(options));
  }
  void deploy(std::unique_ptr<Controller> controller, SimulatedModel model) {
    std::vector<SimulatedReplica> replicas;
    replicas.push_back({std::move(controller), std::move(model)});
    deploy(std::move(replicas));
  }

  Application& add_application(Nanos slo_ns) {
    return simulator.engine().add_application(std::to_string(tallies.size()), {model_}, nullptr,
                                              slo_ns, 0.0F);
  }
  /// Another application with this objective, asked by callers who come at these times.
  void add_load(Nanos slo_ns, Arrivals arrivals) {
    add_load({.application = &add_application(slo_ns), .arrivals = std::move(arrivals)});
  }
  void add_load(SimulatedLoad load) {
    tallies.emplace_back();
    simulator.add_load(std::move(load));
  }

  [[nodiscard]] Deployment& deployment() const { return *model_->current(); }
  /// Rows whose model answered after their deadline, by which time their query had ended.
  [[nodiscard]] std::uint64_t late_rows() { return simulator.engine().answers_lost.load(); }
  [[nodiscard]] std::uint64_t rows_run() const {
    std::uint64_t rows = 0;
    for (const auto& replica : deployment().replicas()) rows += replica->rows_run.load();
    return rows;
  }

  void check_nothing_is_left() {
    CHECK(simulator.leftovers().none());
    CHECK_EQ(simulator.wrong_answers(), 0u);
  }

  Simulator simulator;
  std::vector<Tally> tallies;                          // of each load
  std::vector<std::vector<std::uint32_t>> batch_rows;  // of each replica
  std::uint64_t dead_rows_run = 0;  // whose deadline had passed when their batch began
  Nanos tally_from_ns = 0;          // queries that come earlier do not count
  std::function<void(const SimulatedRun&)> also_on_run;

 private:
  void note(const SimulatedRun& run) {
    const auto& replicas = deployment().replicas();
    for (std::size_t i = 0; i < replicas.size(); ++i) {
      if (replicas[i].get() == &run.replica) batch_rows[i].push_back(run.batch.rows);
    }
    for (const WaitingRows& entry : run.batch.entries) {
      if (entry.deadline_ns <= run.start_ns) dead_rows_run += entry.run.rows;
    }
    if (also_on_run) also_on_run(run);
  }

  void note(const SimulatedAnswer& answer) {
    if (answer.arrived_ns < tally_from_ns) return;
    Tally& tally = tallies[answer.load];
    ++tally.asked;
    tally.in_time += answer.is_in_time() ? 1 : 0;
    tally.given_up_early += answer.cause == Cause::kOverload && answer.done_ns < answer.deadline_ns;
    tally.expired += answer.cause == Cause::kDeadline ? 1 : 0;
  }

  Model* model_ = nullptr;
};

/// Of the last `count` batches.
inline double mean_rows(const std::vector<std::uint32_t>& batches, std::size_t count) {
  count = std::min(count, batches.size());
  double sum = 0;
  for (std::size_t i = batches.size() - count; i < batches.size(); ++i) sum += batches[i];
  return sum / static_cast<double>(count);
}

}  // namespace clipper::testing
