// Open-loop load: every arrival is accounted for once, with its own answer, by its own schedule.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "base/random.h"
#include "batching/fixed.h"
#include "check.h"
#include "load/generator.h"
#include "selection/majority_vote.h"

namespace {

using namespace clipper;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kArrivals = 4'000;
constexpr std::uint64_t kMostGapNs = 60'000;  // a rate that the generator keeps up with
#else
constexpr std::size_t kArrivals = 20'000;
constexpr std::uint64_t kMostGapNs = 10'000;
#endif

std::int64_t answer_to(std::int64_t row) { return 3 * row + 1; }

/// One model of one deployment under load.
struct Bench {
  explicit Bench(const Clock& its_clock) : engine(its_clock, 1) {
    std::iota(pool.begin(), pool.end(), 1000);
  }

  Deployment& deploy(const char* name) {
    DeploymentOptions options;
    options.input = {{DTypeCode::kInt, 64}, {}};
    options.output = options.input;
    options.max_queue = 512;
    Deployment& made = engine.add_deployment(options);
    made.add_replica(std::make_unique<FixedController>(16));
    models.push_back(&engine.add_model(name));
    models.back()->set_current(&made);
    return made;
  }

  /// Arrivals at these times, each of another row; rows go round the pool.
  LoadGenerator& load(Application& application, std::vector<Nanos> times,
                      Nanos budget_ns = kNever) {
    at_ns = std::move(times);
    for (std::size_t i = 0; i < at_ns.size(); ++i) {
      chosen.push_back(static_cast<std::uint32_t>(i % pool.size()));
    }
    latency_ns.resize(at_ns.size(), -1);
    late_ns.resize(at_ns.size(), -1);
    causes.resize(at_ns.size());
    confidences.resize(at_ns.size());
    answered_by.resize(at_ns.size());
    outputs.resize(at_ns.size(), -1);
    columns.data = reinterpret_cast<const std::byte*>(pool.data());
    const LoadPlan plan{at_ns.data(), chosen.data(), at_ns.size(), &spec, &columns, budget_ns};
    const LoadRecord record{latency_ns.data(),
                            late_ns.data(),
                            causes.data(),
                            confidences.data(),
                            answered_by.data(),
                            reinterpret_cast<std::byte*>(outputs.data()),
                            &layout};
    generator = std::make_unique<LoadGenerator>(engine, application, plan, record);
    return *generator;
  }

  Application& application() {
    return engine.add_application("a", {models[0]}, nullptr, kNever, 0.0F);
  }

  std::int64_t asked_row(std::size_t arrival) const { return pool[chosen[arrival]]; }

  std::size_t count(Cause cause) const {
    return static_cast<std::size_t>(std::count(causes.begin(), causes.end(), cause));
  }

  Engine engine;
  std::vector<Model*> models;
  std::vector<std::int64_t> pool = std::vector<std::int64_t>(97);
  std::vector<Nanos> at_ns, latency_ns, late_ns;
  std::vector<std::uint32_t> chosen, answered_by;
  std::vector<Cause> causes;
  std::vector<float> confidences;
  std::vector<std::int64_t> outputs;
  RowSpec spec{{DTypeCode::kInt, 64}, {}};
  OutputLayout layout{spec};
  ColumnRows columns;
  std::unique_ptr<LoadGenerator> generator;
};

/// Runs the batch that is due now, if any: how many rows it had.
std::uint32_t run_batch(Engine& engine, Replica& replica, bool fails = false) {
  Nanos retry_at_ns = kNever;
  Batch* batch = engine.drive(replica, retry_at_ns);
  if (batch == nullptr) return 0;
  std::vector<std::int64_t> rows(batch->rows);
  std::memcpy(rows.data(), batch->data, rows.size() * sizeof rows[0]);
  for (std::int64_t& row : rows) row = answer_to(row);
  if (fails) {
    engine.fail(*batch, Cause::kModelError, 1);
  } else {
    engine.complete(*batch, reinterpret_cast<const std::byte*>(rows.data()));
  }
  engine.stop_driving(replica);
  return static_cast<std::uint32_t>(rows.size());
}

TEST(latency_counts_from_the_schedule_when_the_generator_is_late) {
  ManualClock clock;
  clock.set(kSecond);
  Bench bench(clock);
  Deployment& deployment = bench.deploy("m");
  LoadGenerator& generator = bench.load(bench.application(), {0, kMillisecond, 60 * kMillisecond});
  generator.begin(kSecond);
  clock.advance(50 * kMillisecond);  // the generator was held up
  CHECK_EQ(generator.turn(), kSecond + 60 * kMillisecond);
  CHECK_EQ(generator.asked(), 2u);
  CHECK_EQ(generator.ended(), 0u);
  CHECK_EQ(bench.causes[0], kPending);
  clock.advance(kMillisecond);
  CHECK_EQ(run_batch(bench.engine, *deployment.replicas()[0]), 2u);
  CHECK_EQ(generator.turn(), kSecond + 60 * kMillisecond);
  CHECK_EQ(generator.ended(), 2u);
  CHECK_EQ(bench.late_ns[0], 50 * kMillisecond);
  CHECK_EQ(bench.late_ns[1], 49 * kMillisecond);
  CHECK_EQ(bench.latency_ns[0], 51 * kMillisecond);
  CHECK_EQ(bench.latency_ns[1], 50 * kMillisecond);
  CHECK_EQ(bench.outputs[1], answer_to(bench.asked_row(1)));
  CHECK_EQ(bench.causes[2], kPending);

  clock.set(kSecond + 60 * kMillisecond);
  CHECK_EQ(generator.turn(), kNever);
  clock.advance(2 * kMillisecond);
  CHECK_EQ(run_batch(bench.engine, *deployment.replicas()[0]), 1u);
  clock.advance(kMillisecond);  // and it was held up again, with the answer in its box
  CHECK_EQ(generator.turn(), kNever);
  CHECK_EQ(bench.late_ns[2], 0);
  CHECK_EQ(bench.latency_ns[2], 3 * kMillisecond);
}

TEST(deadlines_count_from_the_schedule_too) {
  ManualClock clock;
  clock.set(kSecond);
  Bench bench(clock);
  Deployment& deployment = bench.deploy("m");
  LoadGenerator& generator = bench.load(bench.application(), {0, 45 * kMillisecond}, 10'000'000);
  generator.begin(kSecond);
  clock.advance(50 * kMillisecond);
  CHECK_EQ(generator.turn(), kNever);
  // The first one's time was up before it was asked; the second has half of it left.
  CHECK_EQ(run_batch(bench.engine, *deployment.replicas()[0]), 1u);
  CHECK_EQ(generator.turn(), kNever);
  CHECK_EQ(bench.causes[0], Cause::kDeadline);
  CHECK_EQ(bench.causes[1], Cause::kNone);
  CHECK_EQ(deployment.rows_expired.load(), 1u);
  CHECK_EQ(deployment.outstanding(), 0);
}

TEST(admission_counts_what_is_left_of_the_time) {
  ManualClock clock;
  clock.set(kSecond);
  Bench bench(clock);
  Deployment& deployment = bench.deploy("m");
  Controller& controller = deployment.replicas()[0]->controller();
  for (int i = 0; i < 8; ++i) controller.observe({1, 0, 4 * kMillisecond, false});
  // While the first waits, the others would be done 8 ms later: too late for those who come late.
  LoadGenerator& generator =
      bench.load(bench.application(), {0, kMillisecond, kMillisecond}, 10 * kMillisecond);
  generator.begin(kSecond);
  CHECK_EQ(generator.turn(), kSecond + kMillisecond);
  clock.advance(7 * kMillisecond);
  CHECK_EQ(generator.turn(), kNever);
  CHECK_EQ(generator.ended(), 2u);
  CHECK_EQ(bench.count(Cause::kOverload), 2u);
  CHECK_EQ(deployment.rows_refused.load(), 2u);
  bench.engine.close();
  generator.turn();
  CHECK_EQ(generator.ended(), 3u);
}

TEST(it_says_which_models_answered) {
  ManualClock clock;
  clock.set(kSecond);
  Bench bench(clock);
  std::vector<Deployment*> deployments{&bench.deploy("a"), &bench.deploy("b"), &bench.deploy("c")};
  Application& vote = bench.engine.add_application("vote", bench.models,
                                                   std::make_unique<MajorityVote>(), kNever, 0.0F);
  LoadGenerator& generator = bench.load(vote, {0});
  generator.begin(kSecond);
  CHECK_EQ(generator.turn(), kNever);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK_EQ(run_batch(bench.engine, *deployments[i]->replicas()[0], i == 1), 1u);
  }
  CHECK_EQ(generator.turn(), kNever);
  CHECK_EQ(bench.causes[0], Cause::kNone);
  CHECK_EQ(bench.answered_by[0], 0b101u);
  CHECK_NEAR(bench.confidences[0], 1.0, 0.34);
  CHECK_EQ(bench.outputs[0], answer_to(bench.asked_row(0)));
}

TEST(every_arrival_is_accounted_for_once_with_its_own_answer) {
  const MonotonicClock clock;
  Bench bench(clock);
  Deployment& deployment = bench.deploy("m");
  Application& application = bench.application();
  Random random(7);
  std::vector<Nanos> times;
  Nanos at_ns = 0;
  for (std::size_t i = 0; i < kArrivals; ++i) {
    // Bursts: many at once, then a pause that it sleeps through.
    at_ns +=
        random.below(100) == 0 ? 2 * kMillisecond : static_cast<Nanos>(random.below(kMostGapNs));
    times.push_back(at_ns);
  }
  LoadGenerator& generator = bench.load(application, times, 3 * kMillisecond);
  std::atomic<bool> stop{false};
  std::thread driver([&] {
    Replica& replica = *deployment.replicas()[0];
    Random failures(1);
    while (replica.wait_for_work(clock, kNever, nullptr)) {
      // Now and then it stalls, so that some are refused and some are late.
      if (failures.below(100) == 0) std::this_thread::sleep_for(std::chrono::milliseconds(4));
      run_batch(bench.engine, replica, failures.below(50) == 0);
    }
  });
  std::thread reaper([&] {
    while (!stop) bench.engine.wait_for_reaping(bench.engine.reap());
  });
  generator.run();
  stop = true;
  bench.engine.wake_reaper();
  reaper.join();
  while (deployment.outstanding() > 0) {
    deployment.wake_a_driver();
    std::this_thread::yield();
  }
  deployment.replicas()[0]->stop();
  driver.join();

  CHECK_EQ(generator.asked(), kArrivals);
  CHECK_EQ(generator.ended(), kArrivals);
  for (std::size_t i = 0; i < kCauses; ++i) {
    CHECK_EQ(bench.count(static_cast<Cause>(i)), application.rows_by_cause[i].load());
  }
  std::uint64_t in_time = 0;
  for (std::size_t i = 0; i < kArrivals; ++i) {
    CHECK(bench.causes[i] != kPending);
    CHECK(bench.late_ns[i] >= 0);
    CHECK(bench.latency_ns[i] >= bench.late_ns[i]);
    if (bench.causes[i] != Cause::kNone) continue;
    CHECK_EQ(bench.outputs[i], answer_to(bench.asked_row(i)));
    in_time += bench.latency_ns[i] <= 3 * kMillisecond;
  }
  CHECK_EQ(in_time, application.rows_in_time.load());
  CHECK(in_time > 0);
  const Replica& replica = *deployment.replicas()[0];
  CHECK_EQ(replica.rows_run + deployment.rows_refused + deployment.rows_expired +
               deployment.rows_hopeless + deployment.rows_withdrawn,
           kArrivals);
}

TEST(stopping_withdraws_what_is_open) {
  const MonotonicClock clock;
  Bench bench(clock);
  Deployment& deployment = bench.deploy("m");  // and nobody drives it
  LoadGenerator& generator = bench.load(bench.application(), {0, 0, 0, 3600 * kSecond});
  std::thread thread([&] { generator.run(); });
  while (generator.asked() < 3) std::this_thread::yield();
  generator.stop();
  thread.join();
  CHECK_EQ(generator.ended(), 3u);
  CHECK_EQ(bench.count(Cause::kCancelled), 3u);
  CHECK_EQ(bench.causes[3], kPending);
  CHECK_EQ(run_batch(bench.engine, *deployment.replicas()[0]), 0u);
  CHECK_EQ(deployment.outstanding(), 0);
}

TEST(a_closed_engine_ends_the_load) {
  const MonotonicClock clock;
  Bench bench(clock);
  bench.deploy("m");
  LoadGenerator& generator =
      bench.load(bench.application(), {0, 0, 0, 20 * kMillisecond, 21 * kMillisecond});
  std::thread thread([&] { generator.run(); });
  while (generator.asked() < 3) std::this_thread::yield();
  bench.engine.close();
  thread.join();
  CHECK_EQ(bench.count(Cause::kCancelled), 4u);  // three were open, one was refused
  CHECK_EQ(bench.causes[4], kPending);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
