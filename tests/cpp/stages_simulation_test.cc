// Stages under load, in simulated time: what a deadline is worth to a query that needs several
// models, and what a cascade saves.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <utility>
#include <vector>

#include "batching/deadline.h"
#include "check.h"
#include "simulation/simulator.h"
#include "simulation_scene.h"
#include "stages_bench.h"

namespace {

using namespace clipper;
using namespace clipper::testing;
using Test = Condition::Test;

constexpr Nanos kSlo = 50 * kMillisecond;

std::vector<SimulatedReplica> one(SimulatedModel model) {
  std::vector<SimulatedReplica> replicas;
  replicas.push_back({std::make_unique<DeadlineController>(), std::move(model)});
  return replicas;
}

SimulatedModel noisy(SimulatedModel model) {
  model.sigma = 0.05;
  return model;
}

struct Counts {
  std::uint64_t asked = 0;
  std::uint64_t in_time = 0;
  std::uint64_t late = 0;

  [[nodiscard]] double goodput() const {
    return static_cast<double>(in_time) / static_cast<double>(asked);
  }
  void note(const SimulatedAnswer& answer) {
    ++asked;
    in_time += answer.is_in_time() ? 1 : 0;
    late += answer.done_ns > answer.deadline_ns ? 1 : 0;
  }
};

// ---- pipelines ------------------------------------------------------------------------------

/// Each stage adds one, so that an answer tells how many it has gone through.
Counts run_chain(std::vector<SimulatedModel> made, double rate, double length_s) {
  Simulator simulator(7);
  std::vector<Model*> models;
  PlanSpec plan;
  plan.input = numbers();
  for (std::uint16_t i = 0; i < made.size(); ++i) {
    models.push_back(&simulator.deploy("m", one(std::move(made[i]))));
    const Source before = i == 0 ? query_input() : Source{static_cast<std::uint16_t>(i - 1), 0};
    plan.stages.push_back(stage(i, {{before}}));
  }
  plan.answers = {static_cast<std::uint16_t>(made.size() - 1)};
  const auto stages = static_cast<std::int64_t>(made.size());
  Application& application = simulator.engine().add_application(
      "a", models, nullptr, kSlo, 0.0F, 0, ContextOptions::kDefaultBytes,
      std::make_unique<const Plan>(std::move(plan)));
  simulator.answer_row = [](const Deployment&, std::int64_t row) { return row + 1; };
  simulator.is_answer_to = [stages](std::int64_t row, std::int64_t out) {
    return out == row + stages;
  };
  Counts counts;
  simulator.on_answer = [&](const SimulatedAnswer& answer) { counts.note(answer); };
  simulator.add_load({.application = &application,
                      .arrivals = between(0, seconds(length_s), poisson_arrivals(rate, 3))});
  simulator.run();
  CHECK(simulator.leftovers().none());
  CHECK_EQ(simulator.wrong_answers(), 0u);
  CHECK_EQ(counts.late, 0u);
  return counts;
}

TEST(a_pipeline_below_its_capacity_keeps_its_deadline) {
  const SimulatedModel decode = noisy(linear_model(2 * kMillisecond, 200 * kMicrosecond));
  const SimulatedModel model = noisy(linear_model(5 * kMillisecond, 500 * kMicrosecond));
  const Counts counts = run_chain({decode, model, decode}, 600, 60);
  std::printf("three stages at half their capacity: goodput %.4f\n", counts.goodput());
  if (kIsLongEnoughForStatistics) CHECK(counts.goodput() > 0.99);
}

TEST(an_overloaded_pipeline_still_answers_as_many_as_its_slowest_stage_can) {
  const SimulatedModel quick = noisy(linear_model(2 * kMillisecond, 200 * kMicrosecond));
  const SimulatedModel slow = noisy(linear_model(5 * kMillisecond, 1000 * kMicrosecond));
  // Two stages share the objective: what the slow one sustains within half of it.
  const double capacity = slo_capacity(slow, kSlo / 2);
  for (const bool slow_first : {false, true}) {
    const double rate = 2 * capacity;
    const Counts counts =
        slow_first ? run_chain({slow, quick}, rate, 30) : run_chain({quick, slow}, rate, 30);
    const double share = counts.goodput() * rate / capacity;
    std::printf("slow stage %s, twice its capacity: %.3f of it\n", slow_first ? "first" : "last",
                share);
    if (kIsLongEnoughForStatistics) CHECK(share > 0.85);
  }
}

// ---- cascades -------------------------------------------------------------------------------

/// Whether the small model knows the answer; as good as random.
bool is_easy(std::int64_t row, std::uint64_t hard_in_100) {
  return (static_cast<std::uint64_t>(row) * 0x9e3779b97f4a7c15ULL >> 32) % 100 >= hard_in_100;
}

struct CascadeCounts : Counts {
  std::uint64_t hard = 0;
  std::uint64_t by_large = 0;
  std::uint64_t large_rows = 0;
  std::uint64_t refused = 0;
};

CascadeCounts run_cascade(SimulatedModel small_made, SimulatedModel large_made, double rate,
                          std::uint64_t hard_in_100, double length_s, double cancelled = 0) {
  Simulator simulator(11);
  Model& small = simulator.deploy("small", one(std::move(small_made)));
  Model& large = simulator.deploy("large", one(std::move(large_made)));
  PlanSpec plan;
  plan.input = numbers();
  plan.stages = {stage(0, {{query_input()}}),
                 stage(1, {{query_input()}}, {when(0, Test::kNotAtLeast, 0)})};
  plan.answers = {1, 0};
  plan.answers_stand = true;
  Application& application = simulator.engine().add_application(
      "a", {&small, &large}, nullptr, kSlo, 0.0F, 0, ContextOptions::kDefaultBytes,
      std::make_unique<const Plan>(std::move(plan)));
  CascadeCounts counts;
  Deployment* first = small.current();
  simulator.answer_row = [&, hard_in_100](const Deployment& deployment, std::int64_t row) {
    const bool is_sure = &deployment != first || is_easy(row, hard_in_100);
    return is_sure ? 3 * row + 1 : -1 - row;
  };
  simulator.is_answer_to = [&, hard_in_100](std::int64_t row, std::int64_t out) {
    const bool hard = !is_easy(row, hard_in_100);
    counts.hard += hard ? 1 : 0;
    counts.by_large += hard && out == 3 * row + 1 ? 1 : 0;
    return out == 3 * row + 1 || (hard && out == -1 - row);
  };
  simulator.on_answer = [&](const SimulatedAnswer& answer) { counts.note(answer); };
  simulator.add_load({.application = &application,
                      .arrivals = between(0, seconds(length_s), poisson_arrivals(rate, 3)),
                      .cancelled_share = cancelled,
                      .cancel_after_ns = 10 * kMillisecond});
  simulator.run();
  CHECK(simulator.leftovers().none());
  CHECK_EQ(simulator.wrong_answers(), 0u);
  CHECK_EQ(counts.late, 0u);
  counts.large_rows = large.current()->replicas()[0]->rows_run.load();
  counts.refused = large.current()->rows_refused.load();
  return counts;
}

TEST(a_cascade_asks_the_large_model_for_hard_rows_only) {
  const CascadeCounts counts =
      run_cascade(noisy(linear_model(kMillisecond, 50 * kMicrosecond)),
                  noisy(linear_model(8 * kMillisecond, kMillisecond)), 800, 25, 60);
  std::printf("%llu rows, %llu hard, %llu of those by the large model\n",
              static_cast<unsigned long long>(counts.asked),
              static_cast<unsigned long long>(counts.hard),
              static_cast<unsigned long long>(counts.by_large));
  if (!kIsLongEnoughForStatistics) return;
  CHECK(counts.goodput() > 0.999);
  CHECK(static_cast<double>(counts.by_large) > 0.98 * static_cast<double>(counts.hard));
  CHECK(counts.large_rows <= counts.hard);
}

// The large model could not take half of the hard rows: those have the small one's answer, in time.
TEST(a_cascade_whose_large_model_is_overloaded_still_answers_everybody_in_time) {
  const SimulatedModel large = noisy(linear_model(8 * kMillisecond, 2 * kMillisecond));
  const double capacity = slo_capacity(large, kSlo);
  const double rate = 4 * capacity;
  const CascadeCounts counts =
      run_cascade(noisy(linear_model(kMillisecond, 50 * kMicrosecond)), large, rate, 50, 30);
  const double by_large = static_cast<double>(counts.by_large) / (30 * kLength);
  std::printf(
      "twice what the large model can: goodput %.4f, it answers %.3f of its capacity, "
      "%.3f of the hard rows were not handed on\n",
      counts.goodput(), by_large / capacity,
      static_cast<double>(counts.refused) / static_cast<double>(counts.hard));
  if (!kIsLongEnoughForStatistics) return;
  CHECK(counts.goodput() > 0.999);
  CHECK(by_large / capacity > 0.8);
  CHECK(counts.refused > 0);
}

TEST(a_cascade_whose_large_model_never_makes_it_hardly_asks_it) {
  const CascadeCounts counts =
      run_cascade(noisy(linear_model(kMillisecond, 50 * kMicrosecond)),
                  noisy(linear_model(100 * kMillisecond, kMillisecond)), 200, 50, 60);
  std::printf("twice the objective: goodput %.4f, %llu of %llu hard rows tried\n", counts.goodput(),
              static_cast<unsigned long long>(counts.large_rows),
              static_cast<unsigned long long>(counts.hard));
  if (!kIsLongEnoughForStatistics) return;
  CHECK(counts.goodput() > 0.999);
  CHECK_EQ(counts.by_large, 0u);
  CHECK(counts.large_rows < counts.hard / 10);
}

TEST(callers_that_give_up_and_models_that_fail_leave_nothing_behind) {
  SimulatedModel small = noisy(linear_model(kMillisecond, 50 * kMicrosecond));
  SimulatedModel large = noisy(linear_model(8 * kMillisecond, kMillisecond));
  small.fail_one_in = 20;
  large.fail_one_in = 20;
  const CascadeCounts counts = run_cascade(small, large, 800, 50, 20, 0.2);
  if (kIsLongEnoughForStatistics) CHECK(counts.goodput() > 0.7);
  CHECK(counts.goodput() < 1);
}

TEST(the_same_seed_gives_the_same_run_through_stages) {
  const SimulatedModel model = noisy(linear_model(2 * kMillisecond, kMillisecond));
  const Counts once = run_chain({model, model}, 700, 5);
  const Counts again = run_chain({model, model}, 700, 5);
  CHECK_EQ(once.asked, again.asked);
  CHECK_EQ(once.in_time, again.in_time);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
