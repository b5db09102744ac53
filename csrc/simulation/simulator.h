// The whole engine in simulated time: a small discrete-event simulator.
//
// The engine, its deployments, replicas and controllers are those that serve; only the clock, the
// load and what a batch takes are made up. One thread stands for all threads. Events happen in the
// order of their times: batches end, queries arrive, callers cancel, the reaper looks, controllers
// that waited on purpose are asked again. The same seed gives the same run.
//
// Every row carries a number and every model answers it with another, so that an answer in the
// wrong place is noticed.
//
// Thread safety: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <queue>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/random.h"
#include "queue/mailbox.h"
#include "serving/engine.h"
#include "simulation/arrivals.h"
#include "simulation/simulated_model.h"

namespace clipper {

struct SimulatedReplica {
  std::unique_ptr<Controller> controller;
  SimulatedModel model;
};

/// Queries that one application's callers send.
struct SimulatedLoad {
  Application* application = nullptr;
  Arrivals arrivals;
  Nanos budget_ns = 0;     ///< 0: the application's objective
  std::uint32_t rows = 1;  ///< of each query
  /// Each query is one of so many, drawn at random; 0: no two are alike.
  std::uint64_t different_queries = 0;
  Priority priority = kApplicationsPriority;
  double cancelled_share = 0;  ///< of the queries: their callers give up
  Nanos cancel_after_ns = 0;   ///< after so long in the mean (exponential)
};

/// One query that has ended.
struct SimulatedAnswer {
  const Application* application = nullptr;
  std::size_t load = 0;  ///< its place in the order of add_load()
  Nanos arrived_ns = 0;
  Nanos deadline_ns = kNever;
  Nanos done_ns = 0;
  std::uint32_t rows = 0;
  std::uint32_t answered_rows = 0;
  Cause cause = Cause::kNone;  ///< of the first row

  [[nodiscard]] bool is_in_time() const noexcept {
    return answered_rows == rows && done_ns <= deadline_ns;
  }
};

/// One batch that is about to run.
struct SimulatedRun {
  const Batch& batch;
  Replica& replica;
  Nanos start_ns = 0;
  Nanos end_ns = 0;
};

/// What is still held; all zero when everything was answered and given back.
struct Leftovers {
  std::uint64_t open_queries = 0;
  std::int64_t outstanding_rows = 0;
  std::uint32_t waiting_rows = 0;
  std::uint64_t live_rows = 0;  ///< in blocks

  [[nodiscard]] bool none() const noexcept {
    return open_queries == 0 && outstanding_rows == 0 && waiting_rows == 0 && live_rows == 0;
  }
};

class Simulator {
 public:
  explicit Simulator(std::uint64_t seed);

  /// A model with one deployment, whose rows are numbers: specs and owners in `options` are set
  /// here.
  Model& deploy(std::string name, std::vector<SimulatedReplica> replicas,
                DeploymentOptions options = {});
  void add_load(SimulatedLoad load);
  /// Calls `action` when the clock shows `at_ns`.
  void at(Nanos at_ns, std::function<void()> action);

  /// Runs until `until_ns`, or until nothing more can happen.
  void run(Nanos until_ns = kNever);

  /// What a deployment makes of a row, and whether an answer belongs to one. If not given, every
  /// model answers alike. REQUIRES: set before the first run, both or none.
  std::function<std::int64_t(const Deployment&, std::int64_t row)> answer_row;
  std::function<bool(std::int64_t row, std::int64_t output)> is_answer_to;
  /// Called for every query that ended, and for every batch before it runs.
  std::function<void(const SimulatedAnswer&)> on_answer;
  std::function<void(const SimulatedRun&)> on_run;

  [[nodiscard]] Engine& engine() noexcept { return engine_; }
  [[nodiscard]] Nanos now_ns() const noexcept { return clock_.now_ns(); }
  [[nodiscard]] std::uint64_t submitted() const noexcept { return submitted_; }
  [[nodiscard]] std::uint64_t answered() const noexcept { return answered_; }
  /// Rows whose answer belongs to another row.
  [[nodiscard]] std::uint64_t wrong_answers() const noexcept { return wrong_answers_; }
  [[nodiscard]] Leftovers leftovers();

 private:
  // In the order in which events of one moment happen.
  enum class What : std::uint8_t { kRunEnds, kAction, kArrival, kCancel, kRetry };

  struct Event {
    Nanos at_ns = 0;
    What what = What::kArrival;
    std::uint32_t index = 0;       // of the load, replica, action or query slot
    std::uint32_t generation = 0;  // of the query
    std::uint64_t order = 0;

    [[nodiscard]] bool operator>(const Event& other) const noexcept;
  };

  struct Driver {
    SimulatedModel model;
    Replica* replica = nullptr;
    Batch* batch = nullptr;      // nullptr: idle
    Nanos retry_at_ns = kNever;  // of the retry that counts
  };

  void schedule(Nanos at_ns, What what, std::uint32_t index, std::uint32_t generation = 0);
  void happen(const Event& event);
  void arrive(std::uint32_t load_index);
  void wake_a_driver(Deployment& deployment);
  void try_to_run(std::uint32_t driver_index);
  void end_run(std::uint32_t driver_index);
  void collect_answers();
  void collect(Query& query);
  [[nodiscard]] std::uint32_t count_answered(const Query& query, const Outcome& outcome);

  ManualClock clock_;
  Engine engine_;
  Mailbox box_;
  Random random_;
  std::vector<SimulatedLoad> loads_;
  std::vector<Driver> drivers_;
  std::vector<Deployment*> deployments_;
  std::vector<std::function<void()>> actions_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::uint64_t scheduled_ = 0;
  std::uint64_t submitted_ = 0;
  std::uint64_t answered_ = 0;
  std::uint64_t wrong_answers_ = 0;
  bool has_stages_ = false;
  std::vector<std::int64_t> rows_;  // scratch: of one query, or of one batch
};

}  // namespace clipper
