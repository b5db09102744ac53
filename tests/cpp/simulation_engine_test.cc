// The simulator itself, and what the whole engine must keep whatever happens: every query ends
// exactly once with its own answer, and nothing stays behind.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

#include "batching/aimd.h"
#include "batching/deadline.h"
#include "batching/fixed.h"
#include "check.h"
#include "selection/majority_vote.h"
#include "simulation/simulator.h"

namespace {

using namespace clipper;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t kShorter = 20;
#else
constexpr std::uint64_t kShorter = 1;
#endif

constexpr Nanos kSlo = 10 * kMillisecond;

SimulatedModel quick_model() { return linear_model(900 * kMicrosecond, 100 * kMicrosecond); }

SimulatedReplica replica(SimulatedModel model) {
  return {std::make_unique<DeadlineController>(), std::move(model)};
}

std::vector<SimulatedReplica> one(SimulatedModel model) {
  std::vector<SimulatedReplica> replicas;
  replicas.push_back(replica(std::move(model)));
  return replicas;
}

/// Counts every query by the time at which it arrived and its load, which tells them apart.
struct Ledger {
  std::uint64_t ended = 0;
  std::uint64_t in_time = 0;
  std::uint64_t digest = 14695981039346656037ULL;  // of all that was answered, in its order (FNV)

  void note(const SimulatedAnswer& answer) {
    ++ended;
    in_time += answer.is_in_time() ? 1 : 0;
    const auto mix = [this](std::int64_t value) {
      digest = (digest ^ static_cast<std::uint64_t>(value)) * 1099511628211ULL;
    };
    mix(answer.arrived_ns);
    mix(answer.done_ns);
    mix(answer.answered_rows);
    mix(static_cast<std::int64_t>(answer.cause));
  }
};

void check_nothing_is_left(Simulator& simulator) {
  const Leftovers left = simulator.leftovers();
  CHECK_EQ(left.open_queries, 0u);
  CHECK_EQ(left.outstanding_rows, 0);
  CHECK_EQ(left.waiting_rows, 0u);
  CHECK_EQ(left.live_rows, 0u);
  CHECK_EQ(simulator.wrong_answers(), 0u);
}

/// Everything at once: two models of several replicas, bursts, cancellations, failures,
/// preemptions, rows by the dozen, a vote.
Ledger run_turmoil(std::uint64_t seed, std::uint64_t queries) {
  Simulator simulator(seed);
  SimulatedModel rough = quick_model();
  rough.sigma = 0.2;
  rough.fail_one_in = 50;
  rough.preempt_one_in = 200;
  SimulatedModel slow = linear_model(2 * kMillisecond, 200 * kMicrosecond);
  std::vector<SimulatedReplica> both;
  both.push_back(replica(rough));
  both.push_back(replica(slow));
  DeploymentOptions small;
  small.max_queue = 64;
  small.row_budget_bytes = 1 << 14;
  Model& first = simulator.deploy("first", std::move(both), small);
  std::vector<SimulatedReplica> third;
  third.push_back({std::make_unique<AimdController>(), quick_model()});
  Model& second = simulator.deploy("second", std::move(third));
  Engine& engine = simulator.engine();
  Application& single = engine.add_application("single", {&first}, nullptr, kSlo, 0.0F);
  Application& patient = engine.add_application("patient", {&first}, nullptr, kNever, 0.0F);
  Application& vote = engine.add_application("vote", {&first, &second},
                                             std::make_unique<MajorityVote>(), 2 * kSlo, 0.0F);
  simulator.add_load({.application = &single,
                      .arrivals = first_of(queries, gamma_arrivals(4000, 3, seed)),
                      .priority = 2,
                      .cancelled_share = 0.1,
                      .cancel_after_ns = 3 * kMillisecond});
  simulator.add_load({.application = &patient,
                      .arrivals = first_of(queries / 20, poisson_arrivals(200, seed + 1)),
                      .rows = 7});
  simulator.add_load({.application = &vote,
                      .arrivals = first_of(queries / 4, poisson_arrivals(1000, seed + 2)),
                      .rows = 3,
                      .priority = -1,
                      .cancelled_share = 0.05,
                      .cancel_after_ns = kMillisecond});
  Ledger ledger;
  simulator.on_answer = [&](const SimulatedAnswer& answer) { ledger.note(answer); };
  simulator.run();
  CHECK_EQ(ledger.ended, queries + queries / 20 + queries / 4);
  CHECK_EQ(simulator.submitted(), ledger.ended);
  check_nothing_is_left(simulator);
  std::uint64_t rows = 0;
  for (const Application* application : {&single, &patient, &vote}) {
    for (const auto& count : application->rows_by_cause) rows += count;
  }
  CHECK_EQ(rows, queries + 7 * (queries / 20) + 3 * (queries / 4));
  return ledger;
}

TEST(every_query_ends_exactly_once_and_nothing_stays_behind) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    const Ledger ledger = run_turmoil(seed, 40'000 / kShorter);
    CHECK(ledger.in_time > ledger.ended / 3);
    CHECK(ledger.in_time < ledger.ended);
  }
}

TEST(the_same_seed_gives_the_same_run) {
  const Ledger one_run = run_turmoil(9, 10'000 / kShorter);
  CHECK_EQ(run_turmoil(9, 10'000 / kShorter).digest, one_run.digest);
  CHECK(run_turmoil(10, 10'000 / kShorter).digest != one_run.digest);
}

TEST(a_lone_query_takes_as_long_as_its_model) {
  Simulator simulator(1);
  Model& model = simulator.deploy("m", one(quick_model()));
  Application& application = simulator.engine().add_application("a", {&model}, nullptr, kSlo, 0.0F);
  simulator.add_load({.application = &application,
                      .arrivals = replayed_arrivals({kSecond, 2 * kSecond, 3 * kSecond})});
  std::vector<Nanos> taken;
  simulator.on_answer = [&](const SimulatedAnswer& answer) {
    CHECK_EQ(answer.cause, Cause::kNone);
    taken.push_back(answer.done_ns - answer.arrived_ns);
  };
  simulator.run();
  CHECK_EQ(taken.size(), 3u);
  for (const Nanos each : taken) CHECK_EQ(each, kMillisecond);
}

TEST(what_nobody_runs_is_ended_by_the_reaper_at_its_deadline) {
  Simulator simulator(1);
  Model& model = simulator.deploy("m", one(linear_model(100 * kMillisecond, 0)));
  Application& application = simulator.engine().add_application("a", {&model}, nullptr, kSlo, 0.0F);
  simulator.add_load(
      {.application = &application, .arrivals = replayed_arrivals({kSecond, kSecond + 1000})});
  std::vector<SimulatedAnswer> answers;
  simulator.on_answer = [&](const SimulatedAnswer& answer) { answers.push_back(answer); };
  simulator.run();
  CHECK_EQ(answers.size(), 2u);
  for (const SimulatedAnswer& answer : answers) {
    CHECK_EQ(answer.cause, Cause::kDeadline);
    CHECK(answer.done_ns <= answer.deadline_ns);
    CHECK(answer.done_ns >= answer.deadline_ns - kMillisecond);
  }
  check_nothing_is_left(simulator);
}

TEST(a_run_can_be_cut_short_and_goes_on) {
  Simulator simulator(1);
  Model& model = simulator.deploy("m", one(quick_model()));
  Application& application = simulator.engine().add_application("a", {&model}, nullptr, kSlo, 0.0F);
  simulator.add_load(
      {.application = &application, .arrivals = first_of(1000, poisson_arrivals(1000, 3))});
  simulator.run(kSecond / 2);
  CHECK(simulator.now_ns() <= kSecond / 2);
  CHECK(simulator.answered() > 400 && simulator.answered() < 600);
  simulator.run();
  CHECK_EQ(simulator.answered(), 1000u);
}

TEST(millions_of_queries_take_seconds) {
  Simulator simulator(1);
  std::vector<SimulatedReplica> replicas;
  for (int i = 0; i < 20; ++i) replicas.push_back(replica(linear_model(100'000, 2'000)));
  Model& model = simulator.deploy("m", std::move(replicas));
  Application& application = simulator.engine().add_application("a", {&model}, nullptr, kSlo, 0.0F);
  const std::uint64_t queries = 2'000'000 / kShorter;
  simulator.add_load(
      {.application = &application, .arrivals = first_of(queries, poisson_arrivals(1e6, 3))});
  std::uint64_t in_time = 0;
  simulator.on_answer = [&](const SimulatedAnswer& answer) { in_time += answer.is_in_time(); };
  const MonotonicClock clock;
  const Nanos begun_ns = clock.now_ns();
  simulator.run();
  const Nanos taken_ns = clock.now_ns() - begun_ns;
  std::fprintf(stderr, "  %.2f M queries/s\n",
               static_cast<double>(queries) * 1e3 / static_cast<double>(taken_ns));
  CHECK_EQ(simulator.answered(), queries);
  CHECK(in_time > queries - queries / 50);
  CHECK(taken_ns < 60 * kSecond);  // a machine that does other things too
  check_nothing_is_left(simulator);
}

/// Mean and coefficient of variation of the gaps.
void check_gaps(const Arrivals& arrivals, double mean_ns, double variation, double tolerance) {
  double sum = 0;
  double squares = 0;
  constexpr int kCount = 200'000;
  Nanos before = 0;
  for (int i = 0; i < kCount; ++i) {
    const Nanos at = arrivals();
    CHECK(at >= before);
    const auto gap = static_cast<double>(at - before);
    sum += gap;
    squares += gap * gap;
    before = at;
  }
  const double mean = sum / kCount;
  CHECK_NEAR(mean / mean_ns, 1, tolerance);
  CHECK_NEAR(std::sqrt(squares / kCount - mean * mean) / mean / variation, 1, tolerance);
}

TEST(arrivals_have_the_rate_and_the_bursts_asked_for) {
  check_gaps(poisson_arrivals(1000, 5), 1e6, 1, 0.02);
  check_gaps(gamma_arrivals(1000, 3, 5), 1e6, 3, 0.05);
  check_gaps(gamma_arrivals(1000, 0.5, 5), 1e6, 0.5, 0.02);
  check_gaps(markov_arrivals(1000, 10 * kSlo, 6 * kSlo, 5), 1e6, 1.58, 0.05);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
