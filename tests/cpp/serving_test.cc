// Every accepted query ends exactly once, with its own answer or a cause, whatever threads do.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "base/random.h"
#include "batching/fixed.h"
#include "check.h"
#include "serving/engine.h"

namespace {

using namespace clipper;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kQueries = 4'000;
#else
constexpr int kQueries = 30'000;
#endif

std::int64_t answer_to(std::int64_t row) { return 3 * row + 1; }

Deployment& deploy(Engine& engine) {
  DeploymentOptions options;
  options.input = {{DTypeCode::kInt, 64}, {}};
  options.output = options.input;
  options.max_queue = 512;
  options.row_budget_bytes = std::size_t{1} << 20;
  options.max_batch = 16;
  Deployment& made = engine.add_deployment(options);
  made.add_replica(std::make_unique<FixedController>(16));
  return made;
}

void drive(Engine& engine, Replica& replica, std::uint64_t seed) {
  Random random(seed);
  std::vector<std::int64_t> outputs;
  while (replica.wait_for_work(engine.clock(), kNever, nullptr)) {
    Nanos retry_at_ns = kNever;
    Batch* batch = engine.drive(replica, retry_at_ns);
    if (batch == nullptr) continue;
    outputs.resize(batch->rows);
    for (std::uint32_t i = 0; i < batch->rows; ++i) {
      std::int64_t row = 0;
      std::memcpy(&row, batch->data + i * sizeof row, sizeof row);
      outputs[i] = answer_to(row);
    }
    if (random.below(50) == 0) {
      engine.fail(*batch, Cause::kModelError, 1);
    } else {
      engine.complete(*batch, reinterpret_cast<const std::byte*>(outputs.data()));
    }
    engine.stop_driving(replica);
  }
}

/// Asks, waits or withdraws at random, and checks each answer. Returns how many rows it asked for.
std::uint64_t ask(Engine& engine, Application& application, std::uint64_t seed) {
  Random random(seed);
  std::uint64_t asked = 0;
  for (int i = 0; i < kQueries; ++i) {
    std::int64_t rows[4];
    const auto count = static_cast<std::uint32_t>(1 + random.below(4));
    for (std::int64_t& row : rows) row = static_cast<std::int64_t>(random() >> 8);
    Asking asking;
    asking.attended = random.below(2) == 0;
    asking.budget_ns =
        random.below(3) == 0 ? static_cast<Nanos>(random.below(kMillisecond)) + 1 : 10 * kSecond;
    Refusal refusal{};
    Query* query = engine.submit(application, reinterpret_cast<const std::byte*>(rows), count,
                                 asking, refusal);
    CHECK(query != nullptr);
    asked += count;
    if (random.below(10) == 0) {
      engine.withdraw(*query, Cause::kCancelled);
    } else if (engine.wait(*query, query->answer_by_ns) == WaitResult::kTimedOut) {
      engine.withdraw(*query, Cause::kDeadline);
    }
    Outcome outcome;
    engine.collect(*query, 0, outcome);
    for (std::uint32_t row = 0; row < count; ++row) {
      const Cause cause = outcome.causes == nullptr ? outcome.cause : outcome.causes[row];
      if (cause != Cause::kNone) continue;
      std::int64_t answered = 0;
      std::memcpy(&answered, outcome.outputs + row * sizeof answered, sizeof answered);
      CHECK_EQ(answered, answer_to(rows[row]));
    }
    engine.release(*query);
  }
  return asked;
}

/// One model of one deployment, driven by the test itself in manual time.
struct Bench {
  ManualClock clock;
  Engine engine{clock, 1};
  Model& model = engine.add_model("m");
  Deployment& deployment = deploy(engine);
  Application& application = engine.add_application("m", {&model}, nullptr, kNever, 0.0F);
  Nanos retry_at_ns = kNever;
  Bench() {
    clock.set(kSecond);
    model.set_current(&deployment);
  }
  Query* ask(std::vector<std::int64_t> rows, Nanos budget_ns = kNever) {
    Asking asking;
    asking.attended = true;
    asking.budget_ns = budget_ns;
    Refusal refusal{};
    return engine.submit(application, reinterpret_cast<const std::byte*>(rows.data()),
                         static_cast<std::uint32_t>(rows.size()), asking, refusal);
  }
  Replica& replica() { return *deployment.replicas()[0]; }
  Cause end(Query* query) {
    Outcome outcome;
    engine.collect(*query, 0, outcome);
    engine.release(*query);
    return outcome.cause;
  }
};

TEST(expired_rows_are_never_run) {
  Bench bench;
  Query* query = bench.ask({1}, kMillisecond);
  bench.clock.advance(kMillisecond);
  CHECK(bench.engine.drive(bench.replica(), bench.retry_at_ns) == nullptr);
  CHECK(query->is_done());
  CHECK_EQ(bench.end(query), Cause::kDeadline);
  CHECK_EQ(bench.deployment.rows_expired.load(), 1u);
  CHECK_EQ(bench.deployment.outstanding(), 0);
}

TEST(a_failed_batch_answers_model_error) {
  Bench bench;
  Query* query = bench.ask({1});
  Batch* batch = bench.engine.drive(bench.replica(), bench.retry_at_ns);
  CHECK(batch != nullptr);
  bench.engine.fail(*batch, Cause::kModelError, 1);
  bench.engine.stop_driving(bench.replica());
  CHECK_EQ(bench.end(query), Cause::kModelError);
}

TEST(a_full_queue_refuses) {
  Bench bench;
  std::vector<Query*> queries;
  for (int i = 0; i < 512; ++i) queries.push_back(bench.ask({i}));
  Query* refused = bench.ask({1});
  CHECK(refused->is_done());
  CHECK_EQ(bench.end(refused), Cause::kOverload);
  bench.engine.close();
  for (Query* query : queries) CHECK_EQ(bench.end(query), Cause::kCancelled);
  CHECK(bench.ask({1}) == nullptr);
  CHECK(bench.engine.drive(bench.replica(), bench.retry_at_ns) == nullptr);
  CHECK_EQ(bench.deployment.outstanding(), 0);
}

TEST(every_query_ends_exactly_once_with_its_own_answer) {
  const MonotonicClock clock;
  Engine engine(clock, 1);
  Model& model = engine.add_model("m");
  std::vector<Deployment*> deployments{&deploy(engine), &deploy(engine)};
  model.set_current(deployments[0]);
  Application& application = engine.add_application("m", {&model}, nullptr, kNever, 0.0F);
  std::atomic<bool> stop{false};
  std::vector<std::thread> helpers;
  for (std::size_t i = 0; i < deployments.size(); ++i) {
    helpers.emplace_back([&, i] { drive(engine, *deployments[i]->replicas()[0], 100 + i); });
  }
  helpers.emplace_back([&] {
    while (!stop) engine.wait_for_reaping(engine.reap());
  });
  helpers.emplace_back([&] {
    for (std::size_t turn = 1; !stop; ++turn) {
      model.set_current(deployments[turn % 2]);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  std::atomic<std::uint64_t> asked{0};
  std::vector<std::thread> askers;
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    askers.emplace_back([&, seed] { asked += ask(engine, application, seed); });
  }
  for (std::thread& asker : askers) asker.join();
  stop = true;
  engine.wake_reaper();
  for (Deployment* deployment : deployments) {
    while (deployment->outstanding() > 0) std::this_thread::yield();
    deployment->replicas()[0]->stop();
  }
  for (std::thread& helper : helpers) helper.join();
  std::uint64_t counted = 0;
  for (const auto& rows : application.rows_by_cause) counted += rows;
  CHECK_EQ(counted, asked.load());
  CHECK(application.rows_by_cause[0] > 0);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
