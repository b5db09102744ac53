// Many threads ask for few rows, wait, give up and run out of time, while models fail, deployments
// are switched and caches cleared: every row ends once, with its own answer or a cause.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "base/random.h"
#include "batching/deadline.h"
#include "cache_bench.h"
#include "check.h"
#include "serving/engine.h"

namespace {

using namespace clipper;
using clipper::testing::answer_to;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kQueries = 5'000;
#else
constexpr int kQueries = 40'000;
#endif
constexpr std::uint64_t kRows = 40;  // different ones: they meet in flights and in the cache

Deployment& deploy(Engine& engine) {
  DeploymentOptions options;
  options.input = {{DTypeCode::kInt, 64}, {}};
  options.output = options.input;
  options.max_queue = 64;
  options.row_budget_bytes = std::size_t{1} << 20;
  options.max_batch = 16;
  options.cache.bytes = 2'000;  // room for half of the rows
  options.cache.ttl_ns = 5 * kMillisecond;
  Deployment& made = engine.add_deployment(options);
  for (int i = 0; i < 2; ++i) {
    made.add_replica(std::make_unique<DeadlineController>(DeadlineOptions{}, nullptr));
  }
  return made;
}

void run(Engine& engine, Batch& batch, Random& random) {
  std::vector<std::int64_t> outputs(batch.rows);
  for (std::uint32_t i = 0; i < batch.rows; ++i) {
    std::int64_t row = 0;
    std::memcpy(&row, batch.data + i * sizeof row, sizeof row);
    outputs[i] = answer_to(row);
  }
  if (random.below(4) == 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
  Replica& replica = *batch.replica;
  if (random.below(20) == 0) {
    engine.fail(batch, Cause::kModelError, 1);
  } else {
    engine.complete(batch, reinterpret_cast<const std::byte*>(outputs.data()));
  }
  engine.stop_driving(replica);
}

void serve(Engine& engine, Replica& replica, std::uint64_t seed) {
  Random random(seed);
  Nanos retry_at_ns = kNever;
  std::uint64_t seen_arrivals = 0;
  const std::uint64_t* seen = nullptr;
  while (replica.wait_for_work(engine.clock(), retry_at_ns, seen)) {
    seen_arrivals = replica.deployment().arrived_rows();
    Batch* batch = engine.drive(replica, retry_at_ns);
    seen = retry_at_ns == kNever ? nullptr : &seen_arrivals;
    if (batch != nullptr) run(engine, *batch, random);
  }
}

struct Tally {
  std::uint64_t rows = 0;
  std::uint64_t answered = 0;
};

/// Asks at random, leads, waits or withdraws, and checks each answer.
void ask(Engine& engine, Application& application, std::uint64_t seed, Tally& tally) {
  Random random(seed);
  for (int i = 0; i < kQueries; ++i) {
    std::int64_t rows[6];
    const auto count = static_cast<std::uint32_t>(1 + random.below(6));
    for (std::int64_t& row : rows) row = static_cast<std::int64_t>(random.below(kRows));
    Asking asking;
    asking.attended = random.below(2) == 0;
    asking.will_lead = random.below(2) == 0;
    asking.bypass_cache = random.below(10) == 0;
    asking.budget_ns = random.below(3) == 0
                           ? static_cast<Nanos>(random.below(500 * kMicrosecond)) + 1
                           : 30 * kSecond;
    if (random.below(3) == 0) asking.priority = static_cast<Priority>(random.below(3));
    Refusal refusal{};
    Query* query = engine.submit(application, reinterpret_cast<const std::byte*>(rows), count,
                                 asking, refusal);
    CHECK(query != nullptr);
    tally.rows += count;
    if (asking.will_lead) {
      Batch* batch = engine.lead(*query, engine.clock().now_ns(), kMillisecond);
      if (batch != nullptr) run(engine, *batch, random);
    }
    if (random.below(8) == 0) {
      engine.withdraw(*query, Cause::kCancelled);
    } else if (engine.wait(*query, query->answer_by_ns) == WaitResult::kTimedOut) {
      engine.withdraw(*query, Cause::kDeadline);
    }
    // None of those with time enough is left to its deadline.
    CHECK(engine.clock().now_ns() - query->arrived_ns < 20 * kSecond);
    Outcome outcome;
    engine.collect(*query, 0, outcome);
    for (std::uint32_t row = 0; row < count; ++row) {
      const Cause cause = outcome.causes == nullptr ? outcome.cause : outcome.causes[row];
      CHECK(static_cast<std::size_t>(cause) < kCauses);
      if (cause != Cause::kNone) continue;
      std::int64_t answered = 0;
      std::memcpy(&answered, outcome.outputs + row * sizeof answered, sizeof answered);
      CHECK_EQ(answered, answer_to(rows[row]));
      ++tally.answered;
    }
    engine.release(*query);
  }
}

TEST(every_row_ends_once_with_its_own_answer_whoever_evaluates_it) {
  const MonotonicClock clock;
  Engine engine(clock, 1);
  Model& model = engine.add_model("m");
  const std::vector<Deployment*> deployments{&deploy(engine), &deploy(engine)};
  model.set_current(deployments[0]);
  Application& application = engine.add_application("m", {&model}, nullptr, kNever, 0.0F);
  std::atomic<bool> stop{false};
  std::vector<std::thread> helpers;
  for (Deployment* deployment : deployments) {
    for (const auto& replica : deployment->replicas()) {
      helpers.emplace_back([&engine, &replica] { serve(engine, *replica, 100); });
    }
  }
  helpers.emplace_back([&] {
    while (!stop) engine.wait_for_reaping(engine.reap());
  });
  helpers.emplace_back([&] {
    for (std::size_t turn = 1; !stop; ++turn) {
      if (turn % 16 == 0) model.set_current(deployments[turn / 16 % 2]);
      for (Deployment* deployment : deployments) {
        if (turn % 7 == 0) deployment->cache()->clear();
        CHECK(deployment->cache()->statistics().bytes <= 2'000);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  std::vector<Tally> tallies(3);
  std::vector<std::thread> askers;
  for (std::size_t i = 0; i < tallies.size(); ++i) {
    askers.emplace_back([&, i] { ask(engine, application, i + 1, tallies[i]); });
  }
  for (std::thread& asker : askers) asker.join();
  stop = true;
  engine.wake_reaper();
  CacheStatistics all;
  for (Deployment* deployment : deployments) {
    while (deployment->outstanding() > 0) {
      deployment->wake_a_driver();  // the last who led may have left dead rows
      std::this_thread::yield();
    }
    for (const auto& replica : deployment->replicas()) replica->stop();
    const CacheStatistics one = deployment->cache()->statistics();
    CHECK_EQ(one.flights, 0U);
    CHECK_EQ(deployment->live_rows(), 0U);
    CHECK_EQ(deployment->waiting_rows(), 0U);
    all.hits += one.hits;
    all.joined += one.joined;
    all.misses += one.misses;
  }
  for (std::thread& helper : helpers) helper.join();
  Tally sum;
  for (const Tally& tally : tallies) {
    sum.rows += tally.rows;
    sum.answered += tally.answered;
  }
  std::uint64_t counted = 0;
  for (const auto& rows : application.rows_by_cause) counted += rows;
  CHECK_EQ(counted, sum.rows);
  CHECK_EQ(application.rows_by_cause[0].load(), sum.answered);
  // Every way was taken.
  CHECK(all.hits > 1'000);
  CHECK(all.joined > 100);
  CHECK(all.misses > 1'000);
  std::printf("%llu rows: %llu hits, %llu joined, %llu missed\n",
              static_cast<unsigned long long>(sum.rows), static_cast<unsigned long long>(all.hits),
              static_cast<unsigned long long>(all.joined),
              static_cast<unsigned long long>(all.misses));
}

TEST(equal_rows_at_the_same_time_are_evaluated_once) {
  const MonotonicClock clock;
  clipper::testing::CacheBench bench(clock);
  constexpr std::uint64_t kRounds = kQueries / 20;
  constexpr int kThreads = 4;
  std::thread driver([&] {
    Nanos retry_at_ns = kNever;
    while (bench.deployment.replicas()[0]->wait_for_work(clock, kNever, nullptr)) {
      Batch* batch = bench.engine.drive(*bench.deployment.replicas()[0], retry_at_ns);
      if (batch != nullptr) bench.complete(*batch);
    }
  });
  std::atomic<std::uint64_t> arrived{0};
  std::vector<std::thread> askers;
  for (int i = 0; i < kThreads; ++i) {
    askers.emplace_back([&] {
      for (std::uint64_t round = 0; round < kRounds; ++round) {
        ++arrived;
        while (arrived < (round + 1) * kThreads) std::this_thread::yield();
        Query* query = bench.ask({static_cast<std::int64_t>(round)}, 30 * kSecond);
        CHECK_EQ(bench.engine.wait(*query, query->answer_by_ns), WaitResult::kDone);
        bench.check_answered(query, {static_cast<std::int64_t>(round)});
      }
    });
  }
  for (std::thread& asker : askers) asker.join();
  bench.deployment.replicas()[0]->stop();
  driver.join();
  CHECK_EQ(bench.evaluated, kRounds);
  const CacheStatistics statistics = bench.statistics();
  CHECK_EQ(statistics.misses, kRounds);
  CHECK_EQ(statistics.hits + statistics.joined, (kThreads - 1) * kRounds);
  bench.check_idle();
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
