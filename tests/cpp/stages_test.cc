// A query goes through the stages of its plan, each row its own way.
#include <cstdint>
#include <string>
#include <vector>

#include "check.h"
#include "stages_bench.h"

namespace {

using namespace clipper;
using namespace clipper::testing;
using Test = Condition::Test;

std::int64_t add_one(const Numbers& in) { return in[0] + 1; }
std::int64_t twice(const Numbers& in) { return 2 * in[0]; }
std::int64_t sum(const Numbers& in) {
  std::int64_t total = 0;
  for (const std::int64_t number : in) total += number;
  return total;
}

/// in -> add_one -> twice
void chain(StagesBench& bench) {
  bench.deploy(add_one);
  bench.deploy(twice);
  bench.plan({stage(0, {{query_input()}}), stage(1, {{{0, 0}}})}, {1});
}

/// A cascade of three on numbers: goes on while the answer is below 100.
void cascade(StagesBench& bench) {
  bench.deploy(add_one);
  bench.deploy([](const Numbers& in) { return in[0] + 10; });
  bench.deploy([](const Numbers& in) { return in[0] + 1000; });
  bench.plan(
      {stage(0, {{query_input()}}), stage(1, {{query_input()}}, {when(0, Test::kNotAtLeast, 100)}),
       stage(2, {{query_input()}}, {when(1, Test::kNotAtLeast, 100)})},
      {2, 1, 0}, true);
}

TEST(a_chain_gives_the_output_of_its_end) {
  StagesBench bench;
  chain(bench);
  Query* query = bench.ask(Numbers{5});
  CHECK(!bench.run(1));  // nothing waits there yet
  CHECK(bench.run(0));
  CHECK(!query->is_done());
  CHECK(bench.run(1));
  CHECK(query->is_done());
  const auto answer = bench.end(query);
  CHECK_EQ(answer.cause, Cause::kNone);
  CHECK_EQ(answer.outputs[0], 12);
  CHECK_EQ(answer.confidences[0], 1.0F);
  bench.check_nothing_is_left();
}

TEST(rows_of_many_queries_go_on_as_one_batch) {
  StagesBench bench;
  chain(bench);
  std::vector<Query*> queries;
  for (std::int64_t i = 0; i < 20; ++i) queries.push_back(bench.ask(Numbers{i}));
  bench.run_all();
  CHECK_EQ(bench.batches[1].size(), 1u);
  CHECK_EQ(bench.batches[1][0], 20u);
  CHECK_EQ(bench.deployments[1]->replicas()[0]->batches_gathered.load(), 0u);
  for (std::int64_t i = 0; i < 20; ++i) {
    CHECK_EQ(bench.output_of(queries[static_cast<std::size_t>(i)]), 2 * (i + 1));
  }
  bench.check_nothing_is_left();
}

TEST(a_cascade_ends_where_the_answer_is_good_enough) {
  StagesBench bench;
  cascade(bench);
  Query* sure = bench.ask(Numbers{200});
  bench.run_all();
  const auto first = bench.end(sure);
  CHECK_EQ(first.outputs[0], 201);
  CHECK_EQ(first.stages[0], Cause::kNone);
  CHECK_EQ(first.stages[1], kSkipped);
  CHECK_EQ(first.stages[2], kSkipped);
  Query* second = bench.ask(Numbers{95});
  bench.run_all();
  CHECK_EQ(bench.output_of(second), 105);
  Query* unsure = bench.ask(Numbers{1});
  bench.run_all();
  CHECK_EQ(bench.output_of(unsure), 1001);
  bench.check_nothing_is_left();
}

TEST(each_row_of_a_cascade_goes_as_far_as_it_must_and_the_rows_stay_in_order) {
  StagesBench bench;
  cascade(bench);
  Query* query = bench.ask(Numbers{200, 95, 1, 300, 2, 3, 96});
  bench.run_all();
  const auto answer = bench.end(query);
  const Numbers expected{201, 105, 1001, 301, 1002, 1003, 106};
  for (std::size_t row = 0; row < expected.size(); ++row) {
    CHECK_EQ(answer.causes[row], Cause::kNone);
    CHECK_EQ(answer.outputs[row], expected[row]);
  }
  CHECK_EQ(bench.batches[1][0], 5u);
  CHECK_EQ(bench.batches[2][0], 3u);
  bench.check_nothing_is_left();
}

TEST(an_answer_stands_when_the_next_stage_of_a_cascade_fails) {
  StagesBench bench;
  cascade(bench);
  Query* query = bench.ask(Numbers{1});
  CHECK(bench.run(0));
  bench.fail(*bench.claim(1));
  CHECK(query->is_done());
  const auto answer = bench.end(query);
  CHECK_EQ(answer.cause, Cause::kNone);
  CHECK_EQ(answer.outputs[0], 2);
  CHECK_EQ(answer.stages[1], Cause::kModelError);
  CHECK_EQ(answer.stages[2], kSkipped);
  bench.check_nothing_is_left();
}

TEST(an_answer_stands_when_the_deadline_comes_before_that_of_the_next_stage) {
  StagesBench bench;
  cascade(bench);
  Query* query = bench.ask(Numbers{1}, 10 * kMillisecond);
  CHECK(bench.run(0));
  bench.clock.advance(10 * kMillisecond);
  bench.engine.withdraw(*query, Cause::kDeadline);
  const auto answer = bench.end(query);
  CHECK_EQ(answer.cause, Cause::kNone);
  CHECK_EQ(answer.outputs[0], 2);
  CHECK_EQ(answer.stages[1], Cause::kDeadline);
  CHECK_EQ(answer.stages[2], kSkipped);
  bench.check_nothing_is_left();
}

TEST(a_cascade_does_not_go_on_when_the_next_model_cannot_make_it) {
  StagesBench bench;
  cascade(bench);
  Controller& next = bench.deployments[1]->replicas()[0]->controller();
  for (int i = 0; i < 100; ++i) next.observe({1, 0, 50 * kMillisecond, false});
  CHECK(next.is_warm());
  // Else an idle replica may probe.
  Query* ahead = bench.ask(Numbers{1});
  CHECK(bench.run(0));
  Batch* running = bench.claim(1);
  Query* query = bench.ask(Numbers{2}, 20 * kMillisecond);
  CHECK(bench.run(0));
  CHECK(query->is_done());
  const auto answer = bench.end(query);
  CHECK_EQ(answer.cause, Cause::kNone);
  CHECK_EQ(answer.outputs[0], 3);
  CHECK_EQ(answer.stages[1], kSkipped);
  CHECK_EQ(bench.deployments[1]->rows_refused.load(), 1u);
  bench.complete(1, *running);
  bench.run_all();
  bench.end(ahead);
  bench.check_nothing_is_left();
}

TEST(a_stage_that_fails_ends_the_query_with_its_cause) {
  StagesBench bench;
  chain(bench);
  Query* query = bench.ask(Numbers{5});
  bench.fail(*bench.claim(0));
  CHECK(query->is_done());
  const auto answer = bench.end(query);
  CHECK_EQ(answer.cause, Cause::kModelError);
  CHECK_EQ(answer.error_id, 1u);
  CHECK_EQ(answer.stages[0], Cause::kModelError);
  CHECK_EQ(answer.stages[1], kSkipped);
  bench.check_nothing_is_left();
}

TEST(a_stage_that_has_no_model_ends_the_query) {
  StagesBench bench;
  chain(bench);
  bench.models[1]->set_current(nullptr);
  Query* query = bench.ask(Numbers{5});
  CHECK(bench.run(0));
  CHECK_EQ(bench.end(query).cause, Cause::kNoReplica);
  bench.check_nothing_is_left();
}

TEST(a_deadline_in_the_middle_starts_no_further_stage) {
  StagesBench bench;
  chain(bench);
  Query* query = bench.ask(Numbers{5}, 10 * kMillisecond);
  Batch* batch = bench.claim(0);
  bench.clock.advance(10 * kMillisecond);
  bench.engine.withdraw(*query, Cause::kDeadline);
  bench.complete(0, *batch);
  CHECK_EQ(bench.deployments[1]->waiting_rows(), 0u);
  const auto answer = bench.end(query);
  CHECK_EQ(answer.cause, Cause::kDeadline);
  CHECK_EQ(answer.stages[1], kSkipped);
  bench.check_nothing_is_left();
}

/// in -> add_one -> sum, in -> twice -> sum, and in -> sum itself.
void diamond(StagesBench& bench) {
  bench.deploy(add_one);
  bench.deploy(twice);
  bench.deploy(sum, 3);
  bench.plan({stage(0, {{query_input()}}), stage(1, {{query_input()}}),
              stage(2, {{{0, 0}}, {{1, 0}}, {query_input()}})},
             {2});
}

TEST(a_join_runs_when_all_its_predecessors_are_in) {
  for (const bool reversed : {false, true}) {
    StagesBench bench;
    diamond(bench);
    Query* query = bench.ask(Numbers{10, 20, 30});
    CHECK(bench.run(reversed ? 1 : 0));
    CHECK_EQ(bench.deployments[2]->waiting_rows(), 0u);
    CHECK(bench.run(reversed ? 0 : 1));
    CHECK_EQ(bench.deployments[2]->waiting_rows(), 3u);
    CHECK(bench.run(2));
    const auto answer = bench.end(query);
    CHECK_EQ(answer.outputs[0], 11 + 20 + 10);
    CHECK_EQ(answer.outputs[1], 21 + 40 + 20);
    CHECK_EQ(answer.outputs[2], 31 + 60 + 30);
    bench.check_nothing_is_left();
  }
}

TEST(a_join_does_not_run_when_one_of_its_predecessors_has_failed) {
  StagesBench bench;
  diamond(bench);
  Query* single = bench.ask(Numbers{10});
  bench.fail(*bench.claim(1));
  CHECK(single->is_done());  // at once: nobody waits for the other branch
  CHECK_EQ(bench.end(single).cause, Cause::kModelError);
  Query* several = bench.ask(Numbers{10, 20});
  bench.fail(*bench.claim(1));
  CHECK(!several->is_done());
  CHECK(bench.run(0));
  CHECK(several->is_done());
  const auto answer = bench.end(several);
  CHECK_EQ(answer.causes[1], Cause::kModelError);
  CHECK(bench.batches[2].empty());
  bench.check_nothing_is_left();
}

/// add_one decides: above 10 the query's second column goes to twice, else to add_one again; sum
/// takes of whichever has run.
void branches(StagesBench& bench) {
  bench.deploy(add_one);
  bench.deploy(twice);
  bench.deploy(add_one);
  bench.deploy(sum, 2);
  bench.plan(
      {stage(0, {{query_input(0)}}), stage(1, {{query_input(1)}}, {when(0, Test::kMore, 10)}),
       stage(2, {{query_input(1)}}, {when(0, Test::kAtMost, 10)}),
       stage(3, {{{1, 0}, {2, 0}}, {{0, 0}}})},
      {3}, false, 2);
}

TEST(conditions_choose_a_branch_for_each_row_and_branches_meet_again) {
  StagesBench bench;
  branches(bench);
  Query* query = bench.ask({{20, 5, 9, 10}, {100, 200, 300, 400}});
  bench.run_all();
  const auto answer = bench.end(query);
  const Numbers expected{200 + 21, 201 + 6, 301 + 10, 800 + 11};
  for (std::size_t row = 0; row < expected.size(); ++row) {
    CHECK_EQ(answer.causes[row], Cause::kNone);
    CHECK_EQ(answer.outputs[row], expected[row]);
  }
  CHECK_EQ(answer.stages[2], kSkipped);
  bench.check_nothing_is_left();
}

TEST(where_no_condition_holds_there_is_no_answer) {
  StagesBench bench;
  bench.deploy(add_one);
  bench.deploy(twice);
  bench.plan({stage(0, {{query_input()}}), stage(1, {{{0, 0}}}, {when(0, Test::kMore, 10)})}, {1});
  Query* query = bench.ask(Numbers{5, 50});
  bench.run_all();
  const auto answer = bench.end(query);
  CHECK_EQ(answer.causes[0], Cause::kLowConfidence);
  CHECK_EQ(answer.causes[1], Cause::kNone);
  CHECK_EQ(answer.outputs[1], 102);
  bench.check_nothing_is_left();
}

TEST(skips_go_on_to_all_that_stands_behind) {
  StagesBench bench;
  bench.deploy(add_one);
  bench.deploy(twice);
  bench.deploy(twice);
  bench.plan({stage(0, {{query_input()}}), stage(1, {{{0, 0}}}, {when(0, Test::kMore, 10)}),
              stage(2, {{{1, 0}}})},
             {2, 0});
  Query* query = bench.ask(Numbers{5});
  bench.run_all();
  const auto answer = bench.end(query);
  CHECK_EQ(answer.outputs[0], 6);
  CHECK_EQ(answer.stages[1], kSkipped);
  CHECK_EQ(answer.stages[2], kSkipped);
  bench.check_nothing_is_left();
}

TEST(a_query_that_is_withdrawn_at_any_moment_leaves_nothing_behind) {
  for (int steps = 0; steps < 5; ++steps) {
    StagesBench bench;
    diamond(bench);
    Query* query = bench.ask(Numbers{10, 20, 30});
    Batch* batch = nullptr;
    if (steps >= 1) CHECK(bench.run(0));
    if (steps == 2) batch = bench.claim(1);
    if (steps >= 3) CHECK(bench.run(1));
    if (steps == 4) batch = bench.claim(2);
    bench.engine.withdraw(*query, Cause::kCancelled);
    CHECK_EQ(bench.end(query).cause, Cause::kCancelled);
    if (batch != nullptr) bench.complete(steps == 2 ? 1 : 2, *batch);
    CHECK_EQ(bench.deployments[2]->waiting_rows(), steps == 3 ? 3u : 0u);
    bench.check_nothing_is_left();
  }
}

TEST(a_stage_gets_less_than_what_those_behind_it_need) {
  StagesBench bench;
  chain(bench);
  Controller& next = bench.deployments[1]->replicas()[0]->controller();
  for (int i = 0; i < 100; ++i) next.observe({1, 0, 4 * kMillisecond, false});
  Query* query = bench.ask(Numbers{5}, 20 * kMillisecond);
  Batch* batch = bench.claim(0);
  const Nanos left_ns = query->answer_by_ns - batch->entries[0].deadline_ns;
  CHECK(left_ns >= 4 * kMillisecond);
  CHECK(left_ns <= 8 * kMillisecond);
  bench.complete(0, *batch);
  batch = bench.claim(1);
  CHECK_EQ(batch->entries[0].deadline_ns, query->answer_by_ns);
  bench.complete(1, *batch);
  CHECK_EQ(bench.output_of(query), 12);
  // Half of the time is the stage's own whatever the others want.
  query = bench.ask(Numbers{5}, 6 * kMillisecond);
  batch = bench.claim(0);
  CHECK_EQ(batch->entries[0].deadline_ns,
           bench.clock.now_ns() + (query->answer_by_ns - bench.clock.now_ns()) / 2);
  bench.complete(0, *batch);
  bench.engine.withdraw(*query, Cause::kCancelled);
  bench.end(query);
  bench.check_nothing_is_left();
}

TEST(rows_that_reach_a_deployment_after_its_end_are_answered) {
  StagesBench bench;
  chain(bench);
  Query* query = bench.ask(Numbers{5});
  Deployment& gone = *bench.deployments[1];
  bench.models[1]->set_current(nullptr);
  gone.close();
  CHECK_EQ(gone.outstanding(), 1);  // it waits for the query
  bench.engine.flush(gone, Cause::kNoReplica);
  CHECK(bench.run(0));
  CHECK(query->is_done());
  CHECK_EQ(bench.end(query).cause, Cause::kNoReplica);
  CHECK_EQ(gone.outstanding(), 0);
}

TEST(a_full_queue_of_a_later_stage_refuses_the_rows_that_find_no_place) {
  StagesBench bench;
  chain(bench);
  bench.deployments[1]->set_max_queue(2);
  std::vector<Query*> queries;
  for (std::int64_t i = 0; i < 3; ++i) queries.push_back(bench.ask(Numbers{i}));
  bench.run_all();
  CHECK_EQ(bench.output_of(queries[0]), 2);
  CHECK_EQ(bench.output_of(queries[1]), 4);
  CHECK_EQ(bench.end(queries[2]).cause, Cause::kOverload);
  bench.check_nothing_is_left();
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
