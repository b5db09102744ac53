// Stages use the prediction caches of their models: what is known is not run again, and no row
// ends differently for it.
#include <cstdint>
#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include "base/random.h"
#include "check.h"
#include "random_plans.h"
#include "stages_bench.h"

namespace {

using namespace clipper;
using namespace clipper::testing;
using Test = Condition::Test;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t kPlans = 200;
#else
constexpr std::uint64_t kPlans = 2000;
#endif
constexpr std::size_t kBytes = std::size_t{256} << 10;

std::int64_t add_one(const Numbers& in) { return in[0] + 1; }
std::int64_t twice(const Numbers& in) { return 2 * in[0]; }
std::int64_t sum(const Numbers& in) { return in[0] + in[1]; }

/// in -> add_one -> twice, of which the first has a cache, or both.
void chain(StagesBench& bench, std::size_t second_bytes = 0) {
  bench.deploy(add_one, 1, 64, kBytes);
  bench.deploy(twice, 1, 64, second_bytes);
  bench.plan({stage(0, {{query_input()}}), stage(1, {{{0, 0}}})}, {1});
}

/// Goes on while the answer is below 100, with the query's own input.
void cascade(StagesBench& bench, std::size_t large_bytes = 0) {
  bench.deploy(add_one, 1, 64, kBytes);
  bench.deploy([](const Numbers& in) { return in[0] + 1000; }, 1, 64, large_bytes);
  bench.plan(
      {stage(0, {{query_input()}}), stage(1, {{query_input()}}, {when(0, Test::kNotAtLeast, 100)})},
      {1, 0}, true);
}

TEST(a_stage_that_knows_its_row_is_not_run_and_its_successor_is) {
  StagesBench bench;
  chain(bench);
  for (int turn = 0; turn < 3; ++turn) {
    Query* query = bench.ask(Numbers{5});
    bench.run_all();
    CHECK_EQ(bench.output_of(query), 12);
  }
  CHECK_EQ(bench.evaluated(0), 1u);
  CHECK_EQ(bench.evaluated(1), 3u);
  CHECK_EQ(bench.cache_of(0).hits, 2u);
  bench.check_nothing_is_left();
}

TEST(a_query_whose_stages_all_know_their_rows_is_done_when_it_is_submitted) {
  StagesBench bench;
  for (std::size_t place = 0; place < 16; ++place) bench.deploy(add_one, 1, 64, kBytes);
  std::vector<StageSpec> stages{stage(0, {{query_input()}})};
  for (std::uint16_t place = 1; place < 16; ++place) {
    stages.push_back(stage(place, {{{static_cast<std::uint16_t>(place - 1), 0}}}));
  }
  bench.plan(stages, {15});
  Query* first = bench.ask(Numbers{1, 2, 3});
  bench.run_all();
  CHECK(bench.end(first).outputs == (Numbers{17, 18, 19}));
  Query* second = bench.ask(Numbers{3, 1, 1, 2});
  CHECK(second->is_done());
  CHECK(bench.end(second).outputs == (Numbers{19, 17, 17, 18}));
  for (std::size_t place = 0; place < 16; ++place) CHECK_EQ(bench.evaluated(place), 3u);
  bench.check_nothing_is_left();
}

TEST(equal_rows_of_one_moment_are_evaluated_once_and_all_go_on) {
  StagesBench bench;
  chain(bench);
  Query* many = bench.ask(Numbers{5, 5, 6, 5});
  Query* one = bench.ask(Numbers{6});
  bench.run_all();
  CHECK(bench.end(many).outputs == (Numbers{12, 12, 14, 12}));
  CHECK_EQ(bench.output_of(one), 14);
  CHECK_EQ(bench.evaluated(0), 2u);
  CHECK_EQ(bench.evaluated(1), 5u);
  CHECK_EQ(bench.cache_of(0).joined, 3u);
  bench.check_nothing_is_left();
}

TEST(hits_joins_and_misses_of_a_later_stage_keep_their_order) {
  StagesBench bench;
  chain(bench, kBytes);
  Query* known = bench.ask(Numbers{7});
  bench.run_all();
  CHECK_EQ(bench.output_of(known), 16);
  Query* many = bench.ask(Numbers{1, 7, 2, 2, 7, 3});
  bench.run_all();
  CHECK(bench.end(many).outputs == (Numbers{4, 16, 6, 6, 16, 8}));
  CHECK_EQ(bench.evaluated(0), 4u);
  CHECK_EQ(bench.evaluated(1), 4u);
  bench.check_nothing_is_left();
}

TEST(a_cascade_hands_its_input_on_after_a_hit_and_after_a_join) {
  StagesBench bench;
  cascade(bench);
  Query* first = bench.ask(Numbers{5, 200});
  Query* joined = bench.ask(Numbers{200, 5});
  bench.run_all();
  CHECK(bench.end(first).outputs == (Numbers{1005, 201}));
  CHECK(bench.end(joined).outputs == (Numbers{201, 1005}));
  Query* known = bench.ask(Numbers{5, 5, 200});
  bench.run_all();
  CHECK(bench.end(known).outputs == (Numbers{1005, 1005, 201}));
  CHECK_EQ(bench.evaluated(0), 2u);
  CHECK_EQ(bench.evaluated(1), 4u);
  bench.check_nothing_is_left();
}

TEST(a_query_that_joined_goes_on_with_the_input_though_the_other_has_gone) {
  StagesBench bench;
  cascade(bench);
  Query* owner = bench.ask(Numbers{5});
  Query* joined = bench.ask(Numbers{5});
  bench.engine.withdraw(*owner, Cause::kCancelled);
  CHECK_EQ(bench.end(owner).cause, Cause::kCancelled);
  bench.run_all();
  CHECK_EQ(bench.output_of(joined), 1005);
  CHECK_EQ(bench.evaluated(0), 1u);
  bench.check_nothing_is_left();
}

TEST(a_join_of_stages_takes_what_a_cache_knew) {
  StagesBench bench;
  bench.deploy(add_one, 1, 64, kBytes);
  bench.deploy(twice);
  bench.deploy(sum, 2);
  bench.plan(
      {stage(0, {{query_input()}}), stage(1, {{query_input()}}), stage(2, {{{0, 0}}, {{1, 0}}})},
      {2});
  for (int turn = 0; turn < 2; ++turn) {
    Query* query = bench.ask(Numbers{5});
    bench.run_all();
    CHECK_EQ(bench.output_of(query), 16);
  }
  CHECK_EQ(bench.evaluated(0), 1u);
  CHECK_EQ(bench.evaluated(1), 2u);
  bench.check_nothing_is_left();
}

TEST(a_query_that_bypasses_caches_neither_reads_nor_fills_those_of_stages) {
  StagesBench bench;
  chain(bench, kBytes);
  for (int turn = 0; turn < 2; ++turn) {
    Query* query = bench.ask(Numbers{5}, kNever, true);
    bench.run_all();
    CHECK_EQ(bench.output_of(query), 12);
  }
  CHECK_EQ(bench.evaluated(0), 2u);
  CHECK_EQ(bench.evaluated(1), 2u);
  for (const std::size_t model : {0u, 1u}) {
    CHECK_EQ(bench.cache_of(model).entries, 0u);
    CHECK_EQ(bench.cache_of(model).misses, 0u);
  }
  bench.check_nothing_is_left();
}

TEST(a_failure_of_a_shared_row_ends_every_query_and_is_not_kept) {
  StagesBench bench;
  chain(bench, kBytes);
  Query* first = bench.ask(Numbers{5});
  Query* second = bench.ask(Numbers{5, 5});
  bench.run(0);
  Batch* batch = bench.claim(1);
  CHECK_EQ(batch->rows, 1u);
  bench.fail(*batch);
  CHECK(first->is_done() && second->is_done());
  CHECK_EQ(bench.end(first).cause, Cause::kModelError);
  CHECK(bench.end(second).causes == std::vector<Cause>(2, Cause::kModelError));
  CHECK_EQ(bench.cache_of(1).entries, 0u);
  Query* again = bench.ask(Numbers{5});
  bench.run_all();
  CHECK_EQ(bench.output_of(again), 12);
  CHECK_EQ(bench.evaluated(0), 1u);
  bench.check_nothing_is_left();
}

TEST(a_deadline_between_stages_leaves_nothing) {
  StagesBench bench;
  chain(bench, kBytes);
  Query* hurried = bench.ask(Numbers{5}, 10 * kMillisecond);
  Query* patient = bench.ask(Numbers{5}, 10 * kSecond);
  bench.run(0);
  bench.clock.set(bench.clock.now_ns() + 20 * kMillisecond);
  bench.run_all();
  CHECK_EQ(bench.output_of(patient), 12);
  CHECK_EQ(bench.end(hurried).cause, Cause::kDeadline);
  CHECK_EQ(bench.evaluated(1), 1u);
  bench.check_nothing_is_left();
}

TEST(queries_that_are_withdrawn_at_any_moment_leave_nothing_and_others_their_answers) {
  for (int moment = 0; moment < 8; ++moment) {
    StagesBench bench;
    chain(bench, kBytes);
    std::vector<Query*> queries;
    for (int i = 0; i < 4; ++i) queries.push_back(bench.ask(Numbers{5, 6}));
    if (moment % 4 > 0) bench.run(0);
    Batch* batch = moment % 4 == 2 ? bench.claim(1) : nullptr;
    if (moment % 4 == 3) bench.run(1);
    const std::size_t first_gone = moment < 4 ? 0 : 1;  // the owner of the flights, or who joined
    for (const std::size_t gone : {first_gone, std::size_t{2}}) {
      bench.engine.withdraw(*queries[gone], Cause::kCancelled);
      bench.end(std::exchange(queries[gone], nullptr));
    }
    if (batch != nullptr) bench.complete(1, *batch);
    bench.run_all();
    for (Query* query : queries) {
      if (query != nullptr) CHECK(bench.end(query).outputs == (Numbers{12, 14}));
    }
    CHECK_EQ(bench.evaluated(0), 2u);
    CHECK_EQ(bench.evaluated(1), 2u);
    bench.check_nothing_is_left();
  }
}

TEST(rows_that_the_queue_of_a_cached_stage_refuses_end_like_any_other) {
  StagesBench bench;
  chain(bench, kBytes);
  bench.deployments[1]->set_max_queue(1);
  std::vector<Query*> queries;
  for (const std::int64_t number : {1, 2, 2, 3}) queries.push_back(bench.ask(Numbers{number}));
  bench.run(0);
  bench.run_all();
  std::uint32_t answered = 0;
  for (Query* query : queries) {
    const auto answer = bench.end(query);
    answered += answer.cause == Cause::kNone ? 1 : 0;
    CHECK(answer.cause == Cause::kNone || answer.cause == Cause::kOverload);
  }
  CHECK_EQ(answered, 1u);
  CHECK_EQ(bench.deployments[1]->rows_refused.load(), 3u);
  bench.check_nothing_is_left();
}

TEST(a_cascade_whose_cached_large_model_is_full_answers_with_the_small_one) {
  StagesBench bench;
  cascade(bench, kBytes);
  bench.deployments[1]->set_max_queue(1);
  Query* many = bench.ask(Numbers{1, 200, 2, 2, 1, 201, 3});
  bench.run_all();
  CHECK(bench.end(many).outputs == (Numbers{1001, 201, 3, 3, 1001, 202, 4}));
  bench.check_nothing_is_left();
}

TEST(a_stage_that_joins_goes_on_where_the_flights_deployment_ends) {
  StagesBench bench;
  chain(bench, kBytes);
  Query* first = bench.ask(Numbers{5});
  Query* second = bench.ask(Numbers{5});
  bench.deployments[0]->close();
  bench.engine.flush(*bench.deployments[0], Cause::kNoReplica);
  CHECK(first->is_done() && second->is_done());
  CHECK_EQ(bench.end(first).cause, Cause::kNoReplica);
  CHECK_EQ(bench.end(second).cause, Cause::kNoReplica);
  bench.check_nothing_is_left();
}

// ---- random plans, queries side by side ---------------------------------------------------------

/// Queries of one drawn plan, some of whose models have caches, on few different inputs.
class Drawing {
 public:
  Drawing(std::uint64_t seed, bool with_failures) : random_(seed), drawn_(draw(random_, 1, false)) {
    drawn_.some_inputs_fail = with_failures;
    for (std::size_t place = 0; place < drawn_.stages.size(); ++place) {
      ran_.emplace_back();
      bench.deploy([this, place](const Numbers& columns) { return note_run(place, columns); },
                   drawn_.stages[place].inputs.size(), with_failures ? 1 : 4,
                   random_.below(4) == 0 ? 0 : kBytes);
    }
    bench.plan(drawn_.stages, drawn_.answers, drawn_.answers_stand, kInputs);
  }

  void ask() {
    const auto rows = static_cast<std::uint32_t>(1 + random_.below(5));
    std::vector<Numbers> columns(kInputs, Numbers(rows));
    for (Numbers& column : columns) {
      for (std::int64_t& number : column) number = static_cast<std::int64_t>(random_.below(3));
    }
    const bool bypass = may_bypass && random_.below(4) == 0;
    Query* query = bench.ask(columns, kNever, bypass);
    asked_.push_back({query, std::move(columns)});
  }

  void run_some() {
    for (std::uint64_t turns = random_.below(6); turns > 0; --turns) {
      run_one(random_.below(bench.models.size()));
    }
  }

  void withdraw_one() {
    if (asked_.empty()) return;
    const auto at = asked_.begin() + static_cast<std::ptrdiff_t>(random_.below(asked_.size()));
    bench.engine.withdraw(*at->first, Cause::kCancelled);
    bench.end(at->first);
    asked_.erase(at);
  }

  void run_all() {
    for (bool has_run = true; has_run;) {
      has_run = false;
      for (std::size_t model = 0; model < bench.models.size(); ++model) {
        has_run = run_one(model) || has_run;
      }
    }
  }

  /// All rows have what the plan means. Returns how many.
  std::uint64_t check_all() {
    std::uint64_t checked = 0;
    for (auto& [query, columns] : asked_) {
      CHECK(query->is_done());
      const auto answer = bench.end(query);
      for (std::uint32_t row = 0; row < answer.causes.size(); ++row) {
        const Expected expected = expected_of(drawn_, row, {columns[0][row], columns[1][row]});
        CHECK_EQ(answer.causes[row], expected.cause);
        CHECK_EQ(answer.outputs[row], expected.output);
        ++checked;
      }
    }
    asked_.clear();
    bench.check_nothing_is_left();
    return checked;
  }

  std::uint64_t hits_and_joins() {
    std::uint64_t sum = 0;
    for (std::size_t model = 0; model < bench.models.size(); ++model) {
      if (bench.deployments[model]->cache() == nullptr) continue;
      sum += bench.cache_of(model).hits + bench.cache_of(model).joined;
    }
    return sum;
  }

  StagesBench bench;
  bool may_bypass = false;

 private:
  std::int64_t note_run(std::size_t place, const Numbers& columns) {
    const bool is_new = ran_[place].insert(columns).second;
    if (bench.deployments[place]->cache() != nullptr && !may_bypass) CHECK(is_new);
    return made_by(place, columns);
  }

  bool run_one(std::size_t model) {
    Batch* batch = bench.claim(model);
    if (batch == nullptr) return false;
    Numbers columns;
    for (std::size_t c = 0; c < drawn_.stages[model].inputs.size(); ++c) {
      std::int64_t number = 0;
      std::memcpy(&number, batch->column(c), sizeof number);
      columns.push_back(number);
    }
    if (drawn_.fails(model, 0, columns)) {
      bench.fail(*batch);
    } else {
      bench.complete(model, *batch);
    }
    return true;
  }

  Random random_;
  Drawn drawn_;
  std::vector<std::set<Numbers>> ran_;  // by model
  std::vector<std::pair<Query*, std::vector<Numbers>>> asked_;
};

TEST(a_plan_with_caches_does_what_it_means_and_runs_no_row_twice) {
  std::uint64_t checked = 0;
  std::uint64_t spared = 0;
  for (std::uint64_t seed = 1; seed <= kPlans; ++seed) {
    Random choice(~seed);
    Drawing drawing(seed, seed % 2 == 0);
    drawing.may_bypass = seed % 3 == 0;
    for (int i = 0; i < 8; ++i) {
      drawing.ask();
      drawing.run_some();
      if (choice.below(4) == 0) drawing.withdraw_one();
    }
    drawing.run_all();
    checked += drawing.check_all();
    spared += drawing.hits_and_joins();
  }
  CHECK(checked > 8 * kPlans && spared > 8 * kPlans);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
