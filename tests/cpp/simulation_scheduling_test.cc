// Batching and scheduling as the whole engine does it, in simulated time: what controllers promise
// must survive admission, the window, several replicas and the reaper.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

#include "batching/aimd.h"
#include "batching/deadline.h"
#include "batching/fixed.h"
#include "check.h"
#include "simulation_scene.h"

namespace {

using namespace clipper;
using namespace clipper::testing;

constexpr Nanos kSlo = 10 * kMillisecond;

SimulatedModel usual_model() { return linear_model(900 * kMicrosecond, 100 * kMicrosecond); }

std::unique_ptr<Controller> aimd() {
  return std::make_unique<AimdController>(AimdOptions{.slo_ns = kSlo});
}
std::unique_ptr<Controller> deadline() { return std::make_unique<DeadlineController>(); }

TEST(aimd_settles_at_the_size_that_the_objective_allows) {
  for (const Nanos fixed_ns : {300 * kMicrosecond, kMillisecond, kSlo / 3}) {
    for (const Nanos per_row_ns : {20 * kMicrosecond, 100 * kMicrosecond}) {
      Scene scene;
      scene.deploy(aimd(), linear_model(fixed_ns, per_row_ns));
      const double largest = static_cast<double>(kSlo - fixed_ns) / static_cast<double>(per_row_ns);
      // More than it can do, without deadlines, so that every batch can be full.
      const double rate = 1.5e9 / static_cast<double>(per_row_ns);
      scene.add_load(kNever, between(0, 6 * kSecond, poisson_arrivals(rate, 3)));
      scene.simulator.run(6 * kSecond);
      CHECK_NEAR(mean_rows(scene.batch_rows[0], 200), largest, 0.15 * largest);
    }
  }
}

TEST(aimd_backs_off_within_a_bounded_number_of_batches) {
  Scene scene;
  SimulatedModel model = linear_model(kMillisecond, 100 * kMicrosecond);
  model.drift_at_ns = 3 * kSecond;
  model.drift_factor = 2;
  scene.deploy(aimd(), model);
  scene.add_load(kNever, between(0, 4 * kSecond, poisson_arrivals(15'000, 3)));
  int batches = 0;
  bool keeps_it = false;
  scene.also_on_run = [&](const SimulatedRun& run) {
    if (run.start_ns < model.drift_at_ns || keeps_it) return;
    keeps_it = run.end_ns - run.start_ns <= kSlo;
    batches += keeps_it ? 0 : 1;
  };
  scene.simulator.run(4 * kSecond);
  CHECK(keeps_it);
  // Half the size is seven steps of 0.9 away.
  CHECK(batches >= 4 && batches <= 10);
}

double check_slow_replica_runs_smaller_batches(std::unique_ptr<Controller> (*controller)()) {
  Scene scene;
  std::vector<SimulatedReplica> replicas;
  replicas.push_back({controller(), linear_model(400 * kMicrosecond, 200 * kMicrosecond)});
  replicas.push_back({controller(), linear_model(100 * kMicrosecond, 50 * kMicrosecond)});
  scene.deploy(std::move(replicas));
  scene.add_load(kSlo, between(0, 4 * kSecond, poisson_arrivals(30'000, 5)));
  scene.simulator.run();
  const double slow = mean_rows(scene.batch_rows[0], 100);
  const double fast = mean_rows(scene.batch_rows[1], 100);
  std::fprintf(stderr, "  slow %.1f rows, fast %.1f rows, in time %.3f\n", slow, fast,
               scene.tallies[0].share_in_time());
  CHECK(slow < 0.6 * fast);
  CHECK(slow >= 1);
  scene.check_nothing_is_left();
  return scene.tallies[0].share_in_time();
}

TEST(a_slow_replica_settles_at_smaller_batches_than_a_fast_one) {
  check_slow_replica_runs_smaller_batches(aimd);
  // Both together can do 24,200 of 30,000 rows a second.
  CHECK(check_slow_replica_runs_smaller_batches(deadline) > 0.75);
}

/// Notes every row that ran after a row that was due later, although both waited.
class Inversions {
 public:
  void note(const SimulatedRun& run) {
    Nanos latest_ns = 0;
    for (const WaitingRows& entry : run.batch.entries) {
      latest_ns = std::max(latest_ns, entry.deadline_ns);
      for (std::size_t i = runs_.size(); i-- > 0 && runs_[i].start_ns > entry.arrived_ns;) {
        count += runs_[i].latest_ns > entry.deadline_ns ? 1 : 0;
      }
    }
    runs_.push_back({run.start_ns, latest_ns});
  }
  std::uint64_t count = 0;

 private:
  struct Past {
    Nanos start_ns;
    Nanos latest_ns;
  };
  std::vector<Past> runs_;
};

TEST(the_earliest_deadline_goes_first_across_applications) {
  for (const bool is_fixed : {true, false}) {
    Scene scene;
    scene.deploy(is_fixed ? std::make_unique<FixedController>(16) : deadline(), usual_model());
    scene.add_load(kSlo, between(0, seconds(4), poisson_arrivals(2000, 1)));
    scene.add_load(5 * kSlo, between(0, seconds(4), poisson_arrivals(3000, 2)));
    scene.add_load(kNever, between(0, seconds(4), poisson_arrivals(1000, 3)));
    Inversions inversions;
    scene.also_on_run = [&](const SimulatedRun& run) { inversions.note(run); };
    scene.simulator.run();
    CHECK_EQ(inversions.count, 0u);
    CHECK(!kIsLongEnoughForStatistics || scene.tallies[0].share_in_time() > 0.95);
    CHECK(!kIsLongEnoughForStatistics || scene.tallies[1].share_in_time() > 0.95);
    scene.check_nothing_is_left();
  }
}

TEST(a_backlog_of_best_effort_rows_costs_no_deadline) {
  Scene scene;
  scene.deploy(deadline(), usual_model());
  scene.add_load(kNever, replayed_arrivals(std::vector<Nanos>(10'000, 0)));
  scene.add_load(kSlo, between(0, seconds(1), poisson_arrivals(500, 1)));
  scene.add_load(12 * kSlo, between(0, seconds(1), poisson_arrivals(500, 2)));
  scene.simulator.run();
  CHECK_EQ(scene.tallies[0].share_in_time(), 1.0);
  std::fprintf(stderr, "  in time: %.3f under 10 ms, %.3f under 120 ms\n",
               scene.tallies[1].share_in_time(), scene.tallies[2].share_in_time());
  CHECK(!kIsLongEnoughForStatistics || scene.tallies[1].share_in_time() > 0.95);
  CHECK_EQ(scene.tallies[2].share_in_time(), 1.0);
  scene.check_nothing_is_left();
}

TEST(cancelled_rows_cost_nothing) {
  Scene scene;
  scene.deploy(std::make_unique<FixedController>(8), usual_model());
  Application& application = scene.add_application(kNever);
  // All come at once and half give up within a batch or two: the backlog is several seconds.
  scene.add_load({.application = &application,
                  .arrivals = replayed_arrivals(std::vector<Nanos>(10'000, 0)),
                  .cancelled_share = 0.5,
                  .cancel_after_ns = kMillisecond});
  scene.simulator.run();
  const std::uint64_t answered = scene.tallies[0].in_time;
  CHECK(answered > 4'800 && answered < 5'200);
  CHECK(scene.rows_run() <= answered + 3 * 8);  // some were running when their callers left
  CHECK_NEAR(scene.simulator.now_ns(), static_cast<double>(answered) / 8 * 1.7e6, 10e6);
  scene.check_nothing_is_left();
}

TEST(no_row_is_run_whose_deadline_has_passed) {
  for (const int kind : {0, 1, 2}) {
    Scene scene;
    scene.deploy(kind == 0   ? std::make_unique<FixedController>(64)
                 : kind == 1 ? aimd()
                             : deadline(),
                 usual_model());
    scene.add_load(kSlo, between(0, seconds(4), gamma_arrivals(15'000, 3, 1)));
    scene.add_load(3 * kSlo, between(0, seconds(4), poisson_arrivals(2'000, 2)));
    scene.simulator.run();
    CHECK_EQ(scene.dead_rows_run, 0u);
    CHECK(scene.rows_run() > 0);
    scene.check_nothing_is_left();
  }
}

TEST(what_cannot_make_it_is_answered_before_its_deadline) {
  Scene scene;
  scene.deploy(deadline(), usual_model());
  scene.add_load(kSlo, between(0, seconds(10), gamma_arrivals(15'000, 3, 1)));
  scene.simulator.run();
  const Tally& tally = scene.tallies[0];
  CHECK(tally.given_up_early > tally.asked / 4);
  CHECK(!kIsLongEnoughForStatistics || 1000 * tally.expired <= tally.asked);
  CHECK(!kIsLongEnoughForStatistics || 1000 * scene.late_rows() <= tally.in_time);
}

TEST(under_threefold_overload_goodput_holds_and_memory_stays_flat) {
  for (const SimulatedModel& model :
       {usual_model(), linear_model(4 * kMillisecond, 100 * kMicrosecond),
        linear_model(100 * kMicrosecond, kMillisecond), linear_model(200'000, 10'000)}) {
    Scene scene;
    scene.deploy(deadline(), model);
    const double capacity = slo_capacity(model, kSlo);
    scene.add_load(kSlo, between(0, seconds(20), poisson_arrivals(3 * capacity, 2)));
    const Nanos from_ns = seconds(2);
    scene.tally_from_ns = from_ns;
    // The most that was held in the first half and in the second.
    std::size_t bytes[2] = {0, 0};
    std::int64_t rows[2] = {0, 0};
    std::uint32_t slots[2] = {0, 0};
    scene.also_on_run = [&](const SimulatedRun& run) {
      const std::size_t half = run.start_ns < seconds(10) ? 0 : 1;
      bytes[half] = std::max(bytes[half], scene.deployment().blocks().bytes_in_use());
      rows[half] = std::max(rows[half], scene.deployment().outstanding());
      slots[half] = scene.simulator.engine().queries().slots();
    };
    scene.simulator.run();
    const double goodput = static_cast<double>(scene.tallies[0].in_time) /
                           (static_cast<double>(seconds(20) - from_ns) / 1e9);
    std::fprintf(stderr, "  %.3f of the SLO capacity, late %.5f\n", goodput / capacity,
                 static_cast<double>(scene.late_rows()) / static_cast<double>(scene.rows_run()));
    CHECK(!kIsLongEnoughForStatistics || goodput >= 0.95 * capacity);
    // The rows that wait may straddle one block more or less.
    const std::size_t block = scene.deployment().block_rows() * sizeof(std::int64_t);
    CHECK(bytes[0] > 0 && bytes[1] <= bytes[0] + block);
    CHECK(!kIsLongEnoughForStatistics || rows[1] <= rows[0] + rows[0] / 4);
    CHECK(!kIsLongEnoughForStatistics || slots[1] == slots[0]);
    scene.check_nothing_is_left();
  }
}

TEST(rows_are_late_once_in_a_thousand_at_most_where_nothing_is_preempted) {
  std::uint64_t late = 0;
  std::uint64_t in_time = 0;
  for (const double sigma : {0.0, 0.05}) {
    for (const double load : {0.5, 1.0, 1.3}) {
      SimulatedModel model = usual_model();
      model.sigma = sigma;
      Scene scene;
      scene.deploy(deadline(), model);
      const double rate = load * slo_capacity(model, kSlo);
      scene.add_load(kSlo, between(0, seconds(10), gamma_arrivals(rate, 3, 7)));
      scene.simulator.run();
      const std::uint64_t run = scene.rows_run();
      std::fprintf(stderr, "  sigma %.2f load %.1f: late %.5f, in time %.3f\n", sigma, load,
                   static_cast<double>(scene.late_rows()) / static_cast<double>(run),
                   scene.tallies[0].share_in_time());
      late += scene.late_rows();
      in_time += scene.tallies[0].in_time;
    }
  }
  CHECK(!kIsLongEnoughForStatistics || 1000 * late <= in_time);
}

/// The share in time after a drift at 10 s, of rows that come at `rate`.
double share_after_drift(const SimulatedModel& model, double rate) {
  Scene scene(11);
  scene.deploy(deadline(), model);
  scene.tally_from_ns = seconds(10) + seconds(0.5);
  scene.add_load(kSlo, between(0, seconds(30), poisson_arrivals(rate, 3)));
  scene.simulator.run();
  scene.check_nothing_is_left();
  return scene.tallies[0].share_in_time();
}

TEST(a_cold_drifting_preempted_model_recovers_and_is_never_locked_out) {
  for (const double load : {0.3, 0.8, 1.2}) {
    for (const double factor : {0.5, 2.0, 4.0}) {
      // As it is after the drift, from the start, and undisturbed.
      SimulatedModel calm =
          linear_model(static_cast<Nanos>(900'000 * factor), static_cast<Nanos>(100'000 * factor));
      calm.sigma = 0.1;
      SimulatedModel model = usual_model();
      model.sigma = 0.1;
      model.preempt_one_in = 500;
      model.drift_at_ns = seconds(10);
      model.drift_factor = factor;
      const double rate = load * slo_capacity(calm, kSlo);
      const double ideal = share_after_drift(calm, rate);
      const double share = share_after_drift(model, rate);
      std::fprintf(stderr, "  load %.1f, drift to %.1f: %.3f in time, undisturbed %.3f\n", load,
                   factor, share, ideal);
      CHECK(!kIsLongEnoughForStatistics || share >= 0.9 * ideal);
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
