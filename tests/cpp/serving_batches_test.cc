// What becomes of rows between a query and its batches: split, shared among replicas, ordered by
// deadline, cut off by a closed deployment; and that their memory comes back.
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "base/random.h"
#include "batching/fixed.h"
#include "check.h"
#include "serving/engine.h"

namespace {

using namespace clipper;
using Rows = std::vector<std::int64_t>;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kQueries = 1'000;
#else
constexpr int kQueries = 10'000;
#endif

std::int64_t answer_to(std::int64_t row) { return 3 * row + 1; }

Rows answers_to(Rows rows) {
  for (std::int64_t& row : rows) row = answer_to(row);
  return rows;
}

Rows counting(std::int64_t from, std::size_t count) {
  Rows rows(count);
  std::iota(rows.begin(), rows.end(), from);
  return rows;
}

Rows rows_of(const Batch& batch) {
  Rows rows(batch.rows);
  std::memcpy(rows.data(), batch.data, rows.size() * sizeof rows[0]);
  return rows;
}

/// The deployment's one input and output is a 64-bit integer; `replicas` of them run `batch_rows`
/// rows at most.
Deployment& deploy(Engine& engine, std::uint32_t batch_rows, int replicas,
                   std::size_t row_budget_bytes) {
  DeploymentOptions options;
  options.input = {{DTypeCode::kInt, 64}, {}};
  options.output = options.input;
  options.max_batch = batch_rows;
  options.row_budget_bytes = row_budget_bytes;
  Deployment& made = engine.add_deployment(options);
  for (int i = 0; i < replicas; ++i) {
    made.add_replica(std::make_unique<FixedController>(batch_rows));
  }
  return made;
}

Query* submit(Engine& engine, Application& application, const Rows& rows,
              Nanos budget_ns = kNever) {
  Asking asking;
  asking.attended = true;
  asking.budget_ns = budget_ns;
  Refusal refusal{};
  Query* query = engine.submit(application, reinterpret_cast<const std::byte*>(rows.data()),
                               static_cast<std::uint32_t>(rows.size()), asking, refusal);
  CHECK(query != nullptr);
  return query;
}

void complete(Engine& engine, Batch& batch) {
  Replica& replica = *batch.replica;
  const Rows outputs = answers_to(rows_of(batch));
  engine.complete(batch, reinterpret_cast<const std::byte*>(outputs.data()));
  engine.stop_driving(replica);
}

/// Collects and releases a query all of whose rows were answered.
Rows take_answers(Engine& engine, Query* query) {
  CHECK(query->is_done());
  Outcome outcome;
  engine.collect(*query, 0, outcome);
  Rows answers(query->rows);
  for (std::uint32_t row = 0; row < query->rows; ++row) {
    CHECK_EQ(outcome.causes == nullptr ? outcome.cause : outcome.causes[row], Cause::kNone);
  }
  std::memcpy(answers.data(), outcome.outputs, answers.size() * sizeof answers[0]);
  engine.release(*query);
  return answers;
}

Cause take_cause(Engine& engine, Query* query) {
  CHECK(query->is_done());
  Outcome outcome;
  engine.collect(*query, 0, outcome);
  engine.release(*query);
  return outcome.cause;
}

/// One model that the test drives itself, in manual time.
struct Bench {
  explicit Bench(std::uint32_t batch_rows, int replicas = 1,
                 std::size_t row_budget_bytes = std::size_t{1} << 20)
      : deployment(deploy(engine, batch_rows, replicas, row_budget_bytes)) {
    clock.set(kSecond);
    model.set_current(&deployment);
  }
  Query* ask(const Rows& rows, Nanos budget_ns = kNever) {
    return submit(engine, application, rows, budget_ns);
  }
  Batch* drive(std::size_t replica = 0) {
    Nanos retry_at_ns = kNever;
    return engine.drive(*deployment.replicas()[replica], retry_at_ns);
  }
  /// Runs every batch there is on the first replica; returns the rows in the order they ran.
  Rows run_all() {
    Rows ran;
    while (Batch* batch = drive()) {
      const Rows rows = rows_of(*batch);
      ran.insert(ran.end(), rows.begin(), rows.end());
      complete(engine, *batch);
    }
    return ran;
  }

  ManualClock clock;
  Engine engine{clock, 1};
  Model& model = engine.add_model("m");
  Deployment& deployment;
  Application& application = engine.add_application("m", {&model}, nullptr, kNever, 0.0F);
};

TEST(rows_of_a_query_split_over_batches_come_back_in_order) {
  Bench bench(16);
  const Rows first = counting(0, 50);
  const Rows second = counting(1'000, 37);
  Query* one = bench.ask(first);
  Query* other = bench.ask(second);
  CHECK_EQ(bench.run_all().size(), 87u);
  CHECK_EQ(bench.deployment.replicas()[0]->batches_run.load(), 6u);  // 5 of 16 rows, one of 7
  CHECK(take_answers(bench.engine, one) == answers_to(first));
  CHECK(take_answers(bench.engine, other) == answers_to(second));
}

TEST(a_split_query_ends_with_its_last_batch_and_not_before) {
  Bench bench(4);
  Query* query = bench.ask(counting(0, 9));
  for (int batches = 0; batches < 3; ++batches) {
    CHECK(!query->is_done());
    Batch* batch = bench.drive();
    CHECK(batch != nullptr);
    complete(bench.engine, *batch);
  }
  CHECK(take_answers(bench.engine, query) == answers_to(counting(0, 9)));
  CHECK(bench.drive() == nullptr);
}

TEST(a_failed_part_of_a_split_query_fails_its_own_rows_only) {
  Bench bench(2);
  Query* query = bench.ask({1, 2, 3, 4, 5, 6});
  for (int part = 0; part < 3; ++part) {
    Batch* batch = bench.drive();
    CHECK(batch != nullptr);
    if (part != 1) {
      complete(bench.engine, *batch);
      continue;
    }
    bench.engine.fail(*batch, Cause::kModelError, 1);
    bench.engine.stop_driving(*bench.deployment.replicas()[0]);
  }
  Outcome outcome;
  bench.engine.collect(*query, 0, outcome);
  CHECK(outcome.causes != nullptr);
  for (std::uint32_t row = 0; row < 6; ++row) {
    const bool is_failed = row == 2 || row == 3;
    CHECK_EQ(outcome.causes[row], is_failed ? Cause::kModelError : Cause::kNone);
    std::int64_t answer = 0;
    std::memcpy(&answer, outcome.outputs + row * sizeof answer, sizeof answer);
    if (!is_failed) CHECK_EQ(answer, answer_to(row + 1));
  }
  bench.engine.release(*query);
}

TEST(two_replicas_share_one_query_and_may_finish_in_any_order) {
  Bench bench(8, 2);
  const Rows rows = counting(0, 16);
  Query* query = bench.ask(rows);
  Batch* earlier = bench.drive(0);
  CHECK(earlier != nullptr);
  CHECK(bench.drive(0) == nullptr);  // a replica has one driver
  Batch* later = bench.drive(1);
  CHECK(later != nullptr);
  CHECK(rows_of(*earlier) == counting(0, 8));
  CHECK(rows_of(*later) == counting(8, 8));
  complete(bench.engine, *later);
  CHECK(!query->is_done());
  complete(bench.engine, *earlier);
  CHECK(take_answers(bench.engine, query) == answers_to(rows));
}

TEST(rows_run_in_order_of_their_deadlines_and_then_of_their_arrival) {
  Bench bench(1);
  const std::vector<Query*> queries{
      bench.ask({1}),  // best effort: last
      bench.ask({2}, 40 * kMillisecond),
      bench.ask({3}, 10 * kMillisecond),
      bench.ask({4}, 20 * kMillisecond),
      bench.ask({5}, 10 * kMillisecond),
      bench.ask({6}),
      bench.ask({7}, 40 * kMillisecond),
  };
  CHECK(bench.run_all() == (Rows{3, 5, 4, 2, 7, 1, 6}));
  for (std::size_t i = 0; i < queries.size(); ++i) {
    const Rows expected{answer_to(static_cast<std::int64_t>(i) + 1)};
    CHECK(take_answers(bench.engine, queries[i]) == expected);
  }
}

TEST(an_urgent_row_overtakes_what_is_left_of_a_split_query) {
  Bench bench(4);
  const Rows patient = counting(0, 8);
  Query* large = bench.ask(patient, kSecond);
  Batch* first = bench.drive();
  CHECK(first != nullptr);
  Query* urgent = bench.ask({100}, 10 * kMillisecond);
  complete(bench.engine, *first);
  Batch* second = bench.drive();
  CHECK(second != nullptr);
  // Within a batch rows may lie in any order: what counts is that the urgent one is in it.
  CHECK_EQ(second->rows, 4u);
  complete(bench.engine, *second);
  CHECK(urgent->is_done());
  CHECK(!large->is_done());
  CHECK(bench.run_all() == (Rows{7}));
  CHECK(take_answers(bench.engine, urgent) == Rows{answer_to(100)});
  CHECK(take_answers(bench.engine, large) == answers_to(patient));
}

TEST(a_closed_deployment_takes_no_rows_but_answers_those_it_has) {
  Bench bench(4);
  Query* waiting = bench.ask(counting(0, 6));
  bench.deployment.close();
  CHECK_EQ(take_cause(bench.engine, bench.ask({9})), Cause::kNoReplica);
  CHECK_EQ(bench.deployment.outstanding(), 6);
  CHECK_EQ(bench.run_all().size(), 6u);
  CHECK(take_answers(bench.engine, waiting) == answers_to(counting(0, 6)));
  CHECK_EQ(bench.deployment.outstanding(), 0);
  bench.deployment.free_memory();
}

TEST(a_flushed_deployment_ends_waiting_rows_and_lets_the_running_batch_finish) {
  Bench bench(4);
  Query* running = bench.ask(counting(0, 4));
  Batch* batch = bench.drive();
  CHECK(batch != nullptr);
  Query* split = bench.ask(counting(4, 3));
  Query* single = bench.ask({7});
  bench.deployment.close();
  bench.engine.flush(bench.deployment, Cause::kNoReplica);
  CHECK_EQ(take_cause(bench.engine, split), Cause::kNoReplica);
  CHECK_EQ(take_cause(bench.engine, single), Cause::kNoReplica);
  CHECK_EQ(bench.deployment.outstanding(), 4);
  CHECK(!running->is_done());
  complete(bench.engine, *batch);
  CHECK(take_answers(bench.engine, running) == answers_to(counting(0, 4)));
  CHECK_EQ(bench.deployment.outstanding(), 0);
  CHECK(bench.drive() == nullptr);
  bench.deployment.free_memory();
}

TEST(at_rest_a_deployment_uses_one_block_whatever_waited_before) {
  constexpr std::size_t kBlocks = 8;
  Bench bench(64, 1, kBlocks << 20);
  const RowBlocks& blocks = bench.deployment.blocks();
  CHECK_EQ(blocks.bytes_in_use(), 0u);
  Query* single = bench.ask({1});
  const std::size_t one_block = blocks.bytes_in_use();
  CHECK(one_block > 0);
  CHECK_EQ(bench.run_all().size(), 1u);
  CHECK(take_answers(bench.engine, single) == Rows{answer_to(1)});
  CHECK_EQ(blocks.bytes_in_use(), one_block);  // it stays open for the next row
  for (int round = 0; round < 3; ++round) {
    std::vector<Query*> queries;
    const Rows rows = counting(round, bench.deployment.block_rows() / 2 + 1);
    for (std::size_t i = 0; i < kBlocks; ++i) queries.push_back(bench.ask(rows));
    CHECK_EQ(blocks.bytes_in_use(), kBlocks * one_block);
    CHECK_EQ(take_cause(bench.engine, bench.ask(rows)), Cause::kOverload);  // nothing is left
    bench.engine.withdraw(*queries[1], Cause::kCancelled);
    CHECK_EQ(take_cause(bench.engine, queries[1]), Cause::kCancelled);
    queries.erase(queries.begin() + 1);
    CHECK_EQ(bench.run_all().size(), rows.size() * queries.size());
    for (Query* query : queries) CHECK(take_answers(bench.engine, query) == answers_to(rows));
    CHECK_EQ(blocks.bytes_in_use(), one_block);
    CHECK_EQ(bench.deployment.outstanding(), 0);
  }
}

TEST(a_kept_view_holds_its_block_and_nothing_else) {
  Bench bench(64, 1, std::size_t{8} << 20);
  Query* query = bench.ask(counting(0, 4));
  Batch* batch = bench.drive();
  CHECK(batch != nullptr);
  // As the Cython side does for a view that user code may keep.
  const std::shared_ptr<RowBlocks> pool = bench.deployment.blocks_of(*batch);
  Block& leased = batch->block();
  const std::byte* view = batch->data;
  RowBlocks::lease(leased);
  complete(bench.engine, *batch);
  CHECK(take_answers(bench.engine, query) == answers_to(counting(0, 4)));
  for (int i = 0; i < 3; ++i) {
    const Rows rows = counting(100, bench.deployment.block_rows());
    Query* large = bench.ask(rows);
    CHECK_EQ(bench.run_all().size(), rows.size());
    CHECK(take_answers(bench.engine, large) == answers_to(rows));
  }
  Rows kept(4);
  std::memcpy(kept.data(), view, kept.size() * sizeof kept[0]);
  CHECK(kept == counting(0, 4));
  const std::size_t with_lease = pool->bytes_in_use();
  bench.deployment.close();
  bench.deployment.free_memory();  // the pool lives on with its lease
  RowBlocks::release(leased, 1);
  CHECK_EQ(pool->bytes_in_use(), with_lease / 2);
}

void serve(Engine& engine, Replica& replica) {
  while (replica.wait_for_work(engine.clock(), kNever, nullptr)) {
    Nanos retry_at_ns = kNever;
    if (Batch* batch = engine.drive(replica, retry_at_ns)) complete(engine, *batch);
  }
}

/// Asks for up to 100 rows at a time, so that most queries are split. Returns how many it asked.
std::uint64_t ask_and_check(Engine& engine, Application& application, std::uint64_t seed) {
  Random random(seed);
  std::uint64_t asked = 0;
  for (int i = 0; i < kQueries / 4; ++i) {
    const Rows rows = counting(static_cast<std::int64_t>(random() >> 8), 1 + random.below(100));
    // Different deadlines, all of them far: rows overtake each other, none expires.
    const Nanos budget_ns = static_cast<Nanos>(100 + random.below(100)) * kSecond;
    Query* query = submit(engine, application, rows, budget_ns);
    CHECK(engine.wait(*query, kNever) == WaitResult::kDone);
    CHECK(take_answers(engine, query) == answers_to(rows));
    asked += rows.size();
  }
  return asked;
}

TEST(two_replicas_serving_at_once_answer_every_row_of_every_split_query) {
  const MonotonicClock clock;
  Engine engine(clock, 1);
  Model& model = engine.add_model("m");
  Deployment& deployment = deploy(engine, 16, 2, std::size_t{4} << 20);
  model.set_current(&deployment);
  Application& application = engine.add_application("m", {&model}, nullptr, kNever, 0.0F);
  std::vector<std::thread> drivers;
  for (const auto& replica : deployment.replicas()) {
    drivers.emplace_back([&engine, &replica] { serve(engine, *replica); });
  }
  std::atomic<std::uint64_t> asked{0};
  std::vector<std::thread> askers;
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    askers.emplace_back([&, seed] { asked += ask_and_check(engine, application, seed); });
  }
  for (std::thread& asker : askers) asker.join();
  while (deployment.outstanding() > 0) std::this_thread::yield();
  std::uint64_t ran = 0;
  for (const auto& replica : deployment.replicas()) {
    replica->stop();
    ran += replica->rows_run;
  }
  for (std::thread& driver : drivers) driver.join();
  CHECK_EQ(ran, asked.load());
  CHECK_EQ(deployment.waiting_rows(), 0u);
  const std::size_t one_block =
      deployment.block_rows() *
      deployment.blocks().row_bytes();  // rows of 8 bytes fill their pages
  CHECK_EQ(deployment.blocks().bytes_in_use(), one_block);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
