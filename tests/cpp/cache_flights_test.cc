// Hits, joins and misses, step by step in manual time: one evaluation for equal rows, each query
// its own deadline, nothing left behind.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "cache_bench.h"
#include "check.h"

namespace {

using namespace clipper;
using clipper::testing::answer_to;
using clipper::testing::CacheBench;

struct Time {
  ManualClock clock;
};

struct Scene : Time, CacheBench {
  explicit Scene(std::size_t replicas = 1, Nanos ttl_ns = kNever, std::uint32_t max_queue = 512)
      : CacheBench(begun(), replicas, ttl_ns, max_queue) {}

 private:
  const Clock& begun() {
    clock.set(kSecond);
    return clock;
  }
};

TEST(a_repeated_row_is_answered_without_the_model) {
  Scene scene;
  Query* first = scene.ask({5});
  scene.run_all();
  scene.check_answered(first, {5});
  scene.check_answered(scene.ask({5}), {5});
  CHECK_EQ(scene.evaluated, 1U);
  CHECK_EQ(scene.statistics().hits, 1U);
  CHECK_EQ(scene.statistics().misses, 1U);
  CHECK_EQ(scene.statistics().entries, 1U);
  scene.check_idle();
}

TEST(equal_rows_that_wait_or_run_cause_one_evaluation) {
  Scene scene;
  std::vector<Query*> queries;
  for (int i = 0; i < 10; ++i) queries.push_back(scene.ask({5}));
  Batch* batch = scene.drive();
  CHECK_EQ(batch->rows, 1U);
  for (int i = 0; i < 10; ++i) queries.push_back(scene.ask({5}));
  for (const Query* query : queries) CHECK(!query->is_done());
  scene.complete(*batch);
  for (Query* query : queries) scene.check_answered(query, {5});
  CHECK_EQ(scene.evaluated, 1U);
  CHECK_EQ(scene.statistics().joined, 19U);
  scene.check_idle();
}

TEST(a_query_of_many_rows_mixes_hits_joins_and_misses_in_order) {
  Scene scene;
  Query* known = scene.ask({1, 2});
  scene.run_all();
  scene.check_answered(known, {1, 2});
  Query* other = scene.ask({3});
  const std::vector<std::int64_t> rows{4, 1, 3, 5, 6, 2, 5, 4, 7};
  Query* mixed = scene.ask(rows);
  CHECK_EQ(scene.statistics().hits, 2U);
  CHECK_EQ(scene.statistics().joined, 3U);  // 3, and 5 and 4 that came twice
  scene.run_all();
  scene.check_answered(other, {3});
  scene.check_answered(mixed, rows);
  CHECK_EQ(scene.evaluated, 2U + 1U + 4U);
  scene.check_idle();
}

TEST(answers_expire) {
  Scene scene(1, kMillisecond);
  Query* first = scene.ask({5});
  scene.run_all();
  scene.check_answered(first, {5});
  scene.clock.advance(kMillisecond - 1);
  scene.check_answered(scene.ask({5}), {5});
  scene.clock.advance(1);
  Query* again = scene.ask({5});
  CHECK(!again->is_done());
  scene.run_all();
  scene.check_answered(again, {5});
  CHECK_EQ(scene.evaluated, 2U);
}

TEST(who_bypasses_neither_reads_nor_fills) {
  Scene scene;
  const auto bypass = [&] {
    Query* query = scene.ask({5}, kNever, 0, true);
    CHECK(!query->is_done());
    scene.run_all();
    scene.check_answered(query, {5});
  };
  bypass();
  CHECK_EQ(scene.statistics().entries, 0U);
  Query* fills = scene.ask({5});
  scene.run_all();
  scene.check_answered(fills, {5});
  bypass();
  CHECK_EQ(scene.evaluated, 3U);
  CHECK_EQ(scene.statistics().misses, 1U);
  CHECK_EQ(scene.statistics().hits, 0U);
}

TEST(an_error_reaches_all_who_wait_and_is_not_kept) {
  Scene scene;
  std::vector<Query*> queries{scene.ask({5}), scene.ask({5}), scene.ask({6, 5})};
  scene.fail(*scene.drive());
  for (Query* query : queries) {
    CHECK(query->is_done());
    for (const Cause cause : scene.end(query).causes) CHECK_EQ(cause, Cause::kModelError);
  }
  CHECK_EQ(scene.statistics().entries, 0U);
  scene.check_idle();
  Query* again = scene.ask({5});
  scene.run_all();
  scene.check_answered(again, {5});
}

TEST(the_row_of_a_cancelled_query_goes_to_the_next_that_waits) {
  Scene scene;
  Query* first = scene.ask({5}, 10 * kMillisecond);
  Query* second = scene.ask({5}, 30 * kMillisecond);
  Query* third = scene.ask({5}, 20 * kMillisecond);
  CHECK_EQ(scene.statistics().joined, 2U);
  CHECK_EQ(scene.cancel(first), Cause::kCancelled);
  Batch* batch = scene.drive();
  CHECK_EQ(batch->rows, 1U);
  CHECK_EQ(batch->entries[0].handle.slot, third->slot);  // it is due first
  CHECK_EQ(batch->entries[0].deadline_ns, third->answer_by_ns);
  scene.complete(*batch);
  scene.check_answered(second, {5});
  scene.check_answered(third, {5});
  scene.check_idle();
}

TEST(a_joined_query_that_is_cancelled_takes_nothing_with_it) {
  Scene scene;
  Query* first = scene.ask({5});
  Query* second = scene.ask({5});
  CHECK_EQ(scene.cancel(second), Cause::kCancelled);
  scene.run_all();
  scene.check_answered(first, {5});
  scene.check_idle();
}

TEST(a_row_that_nobody_waits_for_any_more_is_not_run) {
  Scene scene;
  std::vector<Query*> queries{scene.ask({5}), scene.ask({5}), scene.ask({5, 6})};
  for (Query* query : queries) scene.cancel(query);
  CHECK(scene.drive() == nullptr);
  CHECK_EQ(scene.statistics().entries, 0U);
  scene.check_idle();
}

TEST(rows_of_one_query_part_ways_when_it_is_cancelled) {
  Scene scene;
  Query* first = scene.ask({1, 2, 3, 4});
  Query* second = scene.ask({3});
  Query* third = scene.ask({1, 9});
  scene.cancel(first);
  Batch* batch = scene.drive();
  CHECK_EQ(batch->rows, 3U);  // 1, 3 and 9
  scene.complete(*batch);
  scene.check_answered(second, {3});
  scene.check_answered(third, {1, 9});
  scene.check_idle();
}

TEST(a_row_whose_query_ran_out_of_time_is_run_for_one_that_has_more) {
  Scene scene;
  Query* hasty = scene.ask({5}, 8 * kMillisecond);
  Query* patient = scene.ask({5}, kSecond);
  CHECK_EQ(scene.statistics().joined, 1U);
  scene.clock.advance(10 * kMillisecond);
  Batch* batch = scene.drive();
  CHECK(batch != nullptr);
  CHECK(hasty->is_done());
  CHECK_EQ(scene.end(hasty).cause, Cause::kDeadline);
  CHECK_EQ(batch->entries[0].deadline_ns, patient->answer_by_ns);
  scene.complete(*batch);
  scene.check_answered(patient, {5});
  scene.check_idle();
}

TEST(a_row_is_dropped_when_nobody_who_waits_has_time_left) {
  Scene scene;
  Query* first = scene.ask({5}, 8 * kMillisecond);
  Query* second = scene.ask({5}, 9 * kMillisecond);
  scene.clock.advance(10 * kMillisecond);
  CHECK(scene.drive() == nullptr);
  CHECK_EQ(scene.end(first).cause, Cause::kDeadline);
  scene.engine.withdraw(*second, Cause::kDeadline);  // as its owner does at its deadline
  CHECK_EQ(scene.end(second).cause, Cause::kDeadline);
  CHECK_EQ(scene.statistics().entries, 0U);
  scene.check_idle();
}

TEST(a_late_answer_still_fills_the_cache) {
  Scene scene;
  Query* query = scene.ask({5}, 8 * kMillisecond);
  Batch* batch = scene.drive();
  scene.clock.advance(10 * kMillisecond);
  scene.engine.withdraw(*query, Cause::kDeadline);
  CHECK_EQ(scene.end(query).cause, Cause::kDeadline);
  scene.complete(*batch);
  scene.check_answered(scene.ask({5}), {5});
  CHECK_EQ(scene.engine.answers_lost.load(), 1U);
  scene.check_idle();
}

TEST(who_could_not_wait_for_a_running_batch_is_evaluated_by_itself) {
  Scene scene(2);
  scene.teach(20 * kMillisecond);
  Query* patient = scene.ask({5}, kSecond);
  Batch* batch = scene.drive(0);
  scene.clock.advance(10 * kMillisecond);
  Query* joins = scene.ask({5}, 100 * kMillisecond);
  CHECK_EQ(scene.statistics().joined, 1U);
  // Of the running batch some 10 ms are left and a bit: not enough for this one. The other
  // replica would take longer still, so it is refused at once.
  Query* hasty = scene.ask({5}, 8 * kMillisecond);
  CHECK_EQ(scene.statistics().joined, 1U);
  CHECK_EQ(scene.statistics().misses, 2U);
  scene.complete(*batch);
  scene.check_answered(patient, {5});
  scene.check_answered(joins, {5});
  if (!hasty->is_done()) {
    Batch* own = scene.drive(1);
    if (own != nullptr) scene.complete(*own);
  }
  scene.cancel(hasty);
  CHECK(scene.drive() == nullptr);
  scene.check_idle();
}

TEST(who_is_due_well_before_a_waiting_row_is_evaluated_by_itself) {
  Scene scene;
  std::vector<Query*> queries{scene.ask({5}), scene.ask({5}, 10 * kMillisecond)};
  CHECK_EQ(scene.statistics().misses, 2U);
  queries.push_back(scene.ask({5}, 9 * kMillisecond));  // hardly earlier than the second
  CHECK_EQ(scene.statistics().joined, 1U);
  scene.run_all();
  for (Query* query : queries) scene.check_answered(query, {5});
  CHECK_EQ(scene.statistics().entries, 1U);
  scene.check_idle();
}

TEST(the_urgent_do_not_wait_for_what_is_not) {
  Scene scene;
  std::vector<Query*> queries{scene.ask({5}, kNever, -1), scene.ask({5}, kNever, 1),
                              scene.ask({5}, kNever, 0)};
  CHECK_EQ(scene.statistics().misses, 2U);
  CHECK_EQ(scene.statistics().joined, 1U);
  scene.run_all();
  for (Query* query : queries) scene.check_answered(query, {5});
  scene.check_idle();
}

TEST(refused_rows_leave_nothing_behind) {
  Scene scene(1, kNever, 2);
  Query* first = scene.ask({1});
  Query* second = scene.ask({2});
  Query* refused = scene.ask({3, 1});
  CHECK_EQ(scene.statistics().flights, 2U);
  scene.run_all();
  scene.check_answered(first, {1});
  scene.check_answered(second, {2});
  const auto ended = scene.end(refused);
  CHECK_EQ(ended.causes[0], Cause::kOverload);
  CHECK_EQ(ended.causes[1], Cause::kNone);
  CHECK_EQ(ended.outputs[1], answer_to(1));
  scene.check_idle();
}

TEST(after_a_clear_rows_under_way_are_answered_but_neither_kept_nor_joined) {
  Scene scene;
  Query* known = scene.ask({1});
  scene.run_all();
  scene.check_answered(known, {1});
  std::vector<Query*> before{scene.ask({5}), scene.ask({5})};
  scene.deployment.cache()->clear();
  CHECK_EQ(scene.statistics().entries, 0U);
  CHECK_EQ(scene.statistics().bytes, 0U);
  Query* after = scene.ask({5});
  scene.cancel(before[0]);
  Batch* batch = scene.drive();
  CHECK_EQ(batch->rows, 2U);
  scene.complete(*batch);
  scene.check_answered(before[1], {5});
  scene.check_answered(after, {5});
  CHECK_EQ(scene.statistics().entries, 1U);  // the one that was asked for after it
  scene.check_idle();
}

TEST(another_deployment_answers_for_itself) {
  Scene scene;
  Query* first = scene.ask({5});
  scene.run_all();
  scene.check_answered(first, {5});
  DeploymentOptions options = scene.deployment.options();
  Deployment& next = scene.engine.add_deployment(options);
  next.add_replica(std::make_unique<FixedController>(64));
  scene.model.set_current(&next);
  CHECK_EQ(scene.statistics().entries, 0U);
  Query* again = scene.ask({5});
  CHECK(!again->is_done());
  scene.cancel(again);
}

TEST(a_closed_deployment_answers_all_who_wait) {
  Scene scene;
  std::vector<Query*> queries{scene.ask({5}), scene.ask({5}), scene.ask({6, 5})};
  scene.deployment.close();
  scene.engine.flush(scene.deployment, Cause::kNoReplica);
  for (Query* query : queries) {
    CHECK(query->is_done());
    CHECK_EQ(scene.end(query).cause, Cause::kNoReplica);
  }
  scene.check_idle();
  scene.deployment.free_memory();
}

TEST(an_engine_may_end_with_rows_under_way) {
  Scene scene;
  std::vector<Query*> queries{scene.ask({1, 2, 3}), scene.ask({2}), scene.ask({9})};
  CHECK(scene.drive() != nullptr);
  queries.push_back(scene.ask({4, 2}));
  scene.engine.close();
  for (Query* query : queries) CHECK_EQ(scene.end(query).cause, Cause::kCancelled);
}

TEST(memory_stays_flat_over_queries_that_expire) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  constexpr int kExpired = 20'000;
#else
  constexpr int kExpired = 300'000;
#endif
  Scene scene(2);
  // One batch never ends. Some queries join what it evaluates, others wait, until their time is up.
  Query* hangs = scene.ask({0});
  Batch* batch = scene.drive(0);
  std::size_t most = 0;
  for (int i = 1; i <= kExpired; ++i) {
    std::vector<Query*> queries{scene.ask({0}, kMillisecond), scene.ask({i}, kMillisecond),
                                scene.ask({i, i / 2}, kMillisecond)};
    scene.clock.advance(2 * kMillisecond);
    for (Query* query : queries) {
      scene.engine.withdraw(*query, Cause::kDeadline);
      CHECK_EQ(scene.end(query).cause, Cause::kDeadline);
    }
    if (i % 50 == 0) CHECK(scene.drive(1) == nullptr);  // but finds the expired rows
    most = std::max(most, batch->entries[0].flight.get()->waiters.capacity());
  }
  CHECK(most < 64);
  CHECK(scene.statistics().joined > kExpired);
  scene.complete(*batch);
  scene.check_answered(hangs, {0});
  CHECK(scene.drive() == nullptr);
  scene.check_idle();
  CHECK_EQ(scene.statistics().entries, 1U);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
