// Strategy and limits may change while batches run: what was learned goes on, nothing is lost.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "batching/aimd.h"
#include "batching/deadline.h"
#include "batching/fixed.h"
#include "batching/quantile.h"
#include "check.h"
#include "serving/engine.h"

namespace {

using namespace clipper;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kQueries = 3'000;
#else
constexpr int kQueries = 20'000;
#endif

enum Strategy { kFixed, kAimd, kQuantile, kDeadline, kStrategies };

std::unique_ptr<Controller> make(int strategy, std::shared_ptr<LatencyModel> known = nullptr) {
  switch (strategy) {
    case kFixed:
      return std::make_unique<FixedController>(3, std::move(known));
    case kAimd:
      return std::make_unique<AimdController>(AimdOptions{}, std::move(known));
    case kQuantile:
      return std::make_unique<QuantileController>(QuantileOptions{}, std::move(known));
    default:
      return std::make_unique<DeadlineController>(DeadlineOptions{}, std::move(known));
  }
}

void change(Replica& replica, int strategy) {
  replica.set_controller(0, make(strategy, replica.controller().shared_latency()));
}

/// Rows are echoed. Everything else is the test's own business.
struct Bench {
  explicit Bench(const Clock& clock, std::unique_ptr<Controller> controller,
                 std::uint32_t max_queue = 4096)
      : engine(clock, 1), deployment(deploy(std::move(controller), max_queue)) {
    model.set_current(&deployment);
  }

  Deployment& deploy(std::unique_ptr<Controller> controller, std::uint32_t max_queue) {
    DeploymentOptions options;
    options.input = {{DTypeCode::kInt, 64}, {}};
    options.output = options.input;
    options.max_queue = max_queue;
    options.row_budget_bytes = std::size_t{1} << 20;
    options.max_batch = 64;
    Deployment& made = engine.add_deployment(options);
    made.add_replica(std::move(controller));
    return made;
  }
  Query* ask(std::int64_t row, Nanos budget_ns = kNever) {
    Asking asking;
    asking.attended = true;
    asking.budget_ns = budget_ns;
    Refusal refusal{};
    Query* query =
        engine.submit(application, reinterpret_cast<const std::byte*>(&row), 1, asking, refusal);
    CHECK(query != nullptr);
    return query;
  }
  Batch* drive() {
    Nanos retry_at_ns = kNever;
    return engine.drive(replica(), retry_at_ns);
  }
  void complete(Batch& batch) {
    engine.complete(batch, batch.data);
    engine.stop_driving(replica());
  }
  Outcome end(Query* query) {
    Outcome outcome;
    engine.collect(*query, 0, outcome);
    engine.release(*query);
    return outcome;
  }
  /// What a replica's thread does.
  void serve() {
    Nanos retry_at_ns = kNever;
    std::uint64_t seen_arrivals = 0;
    const std::uint64_t* seen = nullptr;
    while (replica().wait_for_work(engine.clock(), retry_at_ns, seen)) {
      seen_arrivals = deployment.arrived_rows();
      Batch* batch = engine.drive(replica(), retry_at_ns);
      seen = retry_at_ns == kNever ? nullptr : &seen_arrivals;
      if (batch != nullptr) complete(*batch);
    }
  }
  Replica& replica() { return *deployment.replicas()[0]; }

  Engine engine;
  Model& model = engine.add_model("m");
  Deployment& deployment;
  Application& application = engine.add_application("m", {&model}, nullptr, kNever, 0.0F);
};

/// Runs of 1 ms + 0.1 ms a row, up to `most` rows.
void teach(Controller& controller, std::uint32_t most) {
  for (int turn = 0; turn < 20; ++turn) {
    for (std::uint32_t rows = 1; rows <= most; rows *= 2) {
      controller.observe({rows, 0, kMillisecond + rows * 100 * kMicrosecond, false});
    }
  }
}

TEST(what_batches_take_is_known_to_the_next_controller) {
  for (int from = 0; from < kStrategies; ++from) {
    for (int to = 0; to < kStrategies; ++to) {
      const auto before = make(from);
      teach(*before, 64);
      const auto after = make(to, before->shared_latency());
      CHECK(after->is_warm());
      for (const std::uint32_t rows : {1u, 5u, 64u, 200u}) {
        CHECK_EQ(after->run_bound_ns(rows), before->run_bound_ns(rows));
        CHECK(after->run_bound_ns(rows) >= kMillisecond);
      }
      after->observe({1, 0, kMillisecond, false});
      CHECK_EQ(before->shared_latency()->runs(), after->shared_latency()->runs());
    }
  }
}

TEST(adaptive_sizes_start_from_what_is_known_to_keep_the_objective) {
  const Situation situation{kSecond, kSecond, kSecond + 5 * kMillisecond, kSecond, 1'000, 0, 0};
  for (const int strategy : {kAimd, kQuantile}) {
    CHECK_EQ(make(strategy)->decide(situation).rows, 1u);
    const auto before = make(kDeadline);
    teach(*before, 16);
    // 5 ms are enough for 40 rows, of which at most 16 have ever run.
    CHECK_EQ(make(strategy, before->shared_latency())->decide(situation).rows, 16u);
    teach(*before, 256);
    const std::uint32_t rows = make(strategy, before->shared_latency())->decide(situation).rows;
    CHECK(rows > 16 && rows <= 40);
  }
}

TEST(the_next_batch_is_formed_by_the_new_controller_and_the_running_one_ends) {
  ManualClock clock;
  clock.set(kSecond);
  Bench bench(clock, std::make_unique<FixedController>(16));
  std::vector<Query*> queries;
  for (int row = 0; row < 40; ++row) queries.push_back(bench.ask(row));
  Batch* running = bench.drive();
  CHECK_EQ(running->rows, 16u);
  const Controller& former = bench.replica().controller();
  change(bench.replica(), kFixed);
  clock.advance(kMillisecond);
  bench.complete(*running);
  CHECK_EQ(former.run_bound_ns(16), bench.replica().controller().run_bound_ns(16));
  CHECK(former.run_bound_ns(16) >= kMillisecond);
  while (Batch* batch = bench.drive()) {
    CHECK(batch->rows <= 3);
    bench.complete(*batch);
  }
  for (Query* query : queries) CHECK_EQ(bench.end(query).cause, Cause::kNone);
}

TEST(the_largest_batch_may_shrink_and_grow_again) {
  ManualClock clock;
  clock.set(kSecond);
  Bench bench(clock, std::make_unique<FixedController>(64));
  std::vector<Query*> queries;
  for (int row = 0; row < 100; ++row) queries.push_back(bench.ask(row));
  for (const std::uint32_t most : {5u, 64u}) {
    bench.deployment.set_max_batch(most);
    Batch* batch = bench.drive();
    CHECK_EQ(batch->rows, most);
    bench.complete(*batch);
  }
  bench.deployment.set_max_batch(1u << 30);
  CHECK_EQ(bench.deployment.max_batch(), bench.deployment.most_batch_rows());
  while (Batch* batch = bench.drive()) bench.complete(*batch);
  for (Query* query : queries) CHECK_EQ(bench.end(query).cause, Cause::kNone);
}

TEST(the_queue_may_be_bounded_tighter_and_wider_than_it_was_made) {
  ManualClock clock;
  clock.set(kSecond);
  Bench bench(clock, std::make_unique<FixedController>(64), 8);
  std::vector<Query*> queries;
  const auto accepted = [&](int asked) {
    int waiting = 0;
    for (int i = 0; i < asked; ++i) {
      queries.push_back(bench.ask(i));
      waiting += queries.back()->is_done() ? 0 : 1;
    }
    return waiting;
  };
  CHECK_EQ(accepted(20), 8);
  bench.deployment.set_max_queue(500);  // nobody drives meanwhile: the queue alone holds 8
  CHECK_EQ(accepted(1000), 492);
  bench.deployment.set_max_queue(3);
  CHECK_EQ(accepted(10), 0);
  CHECK_EQ(bench.deployment.waiting_rows(), 500u);
  while (Batch* batch = bench.drive()) bench.complete(*batch);
  CHECK_EQ(accepted(10), 3);
  while (Batch* batch = bench.drive()) bench.complete(*batch);
  int answered = 0;
  for (Query* query : queries) answered += bench.end(query).cause == Cause::kNone ? 1 : 0;
  CHECK_EQ(answered, 503);
}

TEST(rows_that_were_put_off_run_when_nobody_wants_to_wait_any_more) {
  const MonotonicClock clock;
  auto patient = std::make_unique<DeadlineController>(DeadlineOptions{.delay_ns = 600 * kSecond});
  teach(*patient, 8);
  Bench bench(clock, std::move(patient));
  std::thread thread([&] { bench.serve(); });
  Query* query = bench.ask(7);
  CHECK_EQ(bench.engine.wait(*query, clock.now_ns() + 20 * kMillisecond), WaitResult::kTimedOut);
  change(bench.replica(), kDeadline);
  CHECK_EQ(bench.engine.wait(*query, clock.now_ns() + 60 * kSecond), WaitResult::kDone);
  CHECK_EQ(bench.end(query).cause, Cause::kNone);
  bench.replica().stop();
  thread.join();
}

TEST(changes_under_load_lose_no_query) {
  const MonotonicClock clock;
  Bench bench(clock, make(kDeadline));
  std::thread driver([&] { bench.serve(); });
  std::atomic<bool> stop{false};
  std::atomic<int> changes{0};
  std::thread changer([&] {
    for (int turn = 0; !stop; ++turn, ++changes) {
      change(bench.replica(), turn % kStrategies);
      bench.deployment.set_max_batch(1u + static_cast<std::uint32_t>(turn) % 64);
      bench.deployment.set_max_queue(turn % 2 == 0 ? 4096 : 8192);
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  std::vector<std::thread> askers;
  std::atomic<int> answered{0};
  for (int asker = 0; asker < 3; ++asker) {
    askers.emplace_back([&, asker] {
      for (int i = 0; i < kQueries; ++i) {
        const std::int64_t row = i * 3 + asker;
        Query* query = bench.ask(row, 60 * kSecond);
        CHECK_EQ(bench.engine.wait(*query, kNever), WaitResult::kDone);
        Outcome outcome;
        bench.engine.collect(*query, 0, outcome);
        CHECK_EQ(outcome.cause, Cause::kNone);
        CHECK_EQ(*reinterpret_cast<const std::int64_t*>(outcome.outputs), row);
        bench.engine.release(*query);
        ++answered;
      }
    });
  }
  for (std::thread& asker : askers) asker.join();
  stop = true;
  changer.join();
  while (bench.deployment.outstanding() > 0) std::this_thread::yield();
  bench.replica().stop();
  driver.join();
  CHECK_EQ(answered.load(), 3 * kQueries);
  CHECK(changes.load() > 2 * kStrategies);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
