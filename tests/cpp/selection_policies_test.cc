// Policies learn what their papers say they learn, for ever, and from any number of threads.
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "base/random.h"
#include "check.h"
#include "selection/canary.h"
#include "selection/epsilon_greedy.h"
#include "selection/exp3.h"
#include "selection/exp4.h"
#include "selection/thompson.h"
#include "selection/ucb1.h"
#include "selection/weighted_ensemble.h"

namespace {

using namespace clipper;

const RowSpec kLabel{{DTypeCode::kInt, 64}, {}};
const RowSpec kScores{{DTypeCode::kFloat, 32}, {3}};

struct State {
  State(const Policy& policy, std::uint16_t models) : words(policy.state_words(models)) {
    policy.begin(words);
  }
  operator PolicyState() { return words; }  // NOLINT: stands for one
  std::vector<std::atomic<double>> words;
};

Choice choose(const Policy& policy, PolicyState state, std::uint16_t models, Random& random) {
  std::array<Choice, kMaxModels> chosen;
  const SelectionInput input{.models = models, .random = random()};
  CHECK_EQ(policy.select(input, state, std::span(chosen).first(models)), 1U);
  return chosen[0];
}

/// Plays `turns` turns with Bernoulli losses; returns how often each model was asked.
std::vector<int> play(const Policy& policy, PolicyState state, const std::vector<double>& losses,
                      int turns, Random& random) {
  std::vector<int> asked(losses.size());
  for (int i = 0; i < turns; ++i) {
    const Choice choice = choose(policy, state, static_cast<std::uint16_t>(losses.size()), random);
    ++asked[choice.model];
    const bool lost = random.uniform() < losses[choice.model];
    const Observation seen{choice.model, lost ? 1.0F : 0.0F, choice.propensity};
    policy.observe({&seen, 1}, state);
  }
  return asked;
}

std::vector<std::unique_ptr<Policy>> bandits() {
  std::vector<std::unique_ptr<Policy>> made;
  made.push_back(std::make_unique<EpsilonGreedy>(0.1, 200.0));
  made.push_back(std::make_unique<Ucb1>(std::numeric_limits<double>::infinity()));
  made.push_back(std::make_unique<Thompson>(100.0));
  made.push_back(std::make_unique<Exp3>(0.05, 0.05, 0.01));
  return made;
}

TEST(every_bandit_settles_on_the_best_model) {
  for (const auto& policy : bandits()) {
    State state(*policy, 3);
    Random random(7);
    const auto asked = play(*policy, state, {0.6, 0.2, 0.5}, 20'000, random);
    CHECK(asked[1] > 14'000);
  }
}

TEST(a_model_that_failed_is_left_and_found_again) {
  for (const auto& policy : bandits()) {
    if (dynamic_cast<const Ucb1*>(policy.get()) != nullptr) continue;  // as published: in no time
    State state(*policy, 3);
    Random random(11);
    static_cast<void>(play(*policy, state, {0.05, 0.3, 0.3}, 5'000, random));
    static_cast<void>(play(*policy, state, {1.0, 0.3, 0.3}, 1'000, random));
    const auto failed = play(*policy, state, {1.0, 0.3, 0.3}, 4'000, random);
    CHECK(failed[0] < 600);
    static_cast<void>(play(*policy, state, {0.05, 0.3, 0.3}, 10'000, random));
    const auto after = play(*policy, state, {0.05, 0.3, 0.3}, 1'000, random);
    CHECK(after[0] > 600);
  }
}

TEST(exp3_multiplies_weights_as_published) {
  const Exp3 policy(0.1, 0.1, 1e-3);
  State state(policy, 4);
  std::array<long double, 4> weights{1, 1, 1, 1};  // themselves, not their logarithms
  Random random(3);
  for (int i = 0; i < 2'000; ++i) {
    const Choice choice = choose(policy, state, 4, random);
    const long double sum = weights[0] + weights[1] + weights[2] + weights[3];
    const long double p = 0.9L * weights[choice.model] / sum + 0.1L / 4;
    CHECK_NEAR(choice.propensity, p, 1e-6);
    const auto loss = static_cast<float>(random.uniform());
    const Observation seen{choice.model, loss, choice.propensity};
    policy.observe({&seen, 1}, state);
    long double largest = 0;
    for (std::size_t j = 0; j < 4; ++j) {
      if (j != choice.model) largest = std::max(largest, weights[j]);
    }
    const long double floor = std::min(weights[choice.model], 1e-3L * largest);
    const long double step =
        0.1L * static_cast<long double>(loss) / static_cast<long double>(choice.propensity);
    weights[choice.model] = std::max(weights[choice.model] * std::exp(-step), floor);
    for (long double& weight : weights) weight /= std::max(largest, 1e-300L);
  }
}

TEST(eight_threads_lose_no_observation) {
  const EpsilonGreedy policy(0.1, 1e9);
  State state(policy, 2);
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10'000; ++i) {
        const Observation seen{static_cast<std::uint16_t>(i % 2), 0.25F};
        policy.observe({&seen, 1}, state);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::array<Standing, 2> standings;
  policy.describe(state, standings);
  for (const Standing& standing : standings) {
    CHECK_EQ(standing.count, 40'000.0);
    CHECK_NEAR(standing.loss, 0.25, 1e-9);
  }
}

TEST(exp4_is_exact_under_concurrent_feedback) {
  const Exp4 policy(0.001, 1e-300, Ballot(kLabel, false));
  State state(policy, 2);
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      const Observation seen{0, 0.5F};
      for (int i = 0; i < 1'000; ++i) policy.observe({&seen, 1}, state);
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_NEAR(state.words[0].load(), -4.0, 1e-9);
}

TEST(a_missing_answer_costs_confidence) {
  const WeightedEnsemble policy({3.0, 1.0, 1.0}, Ballot(kLabel, false));
  const OutputLayout layout(kLabel);
  const std::int64_t seven = 7;
  const std::int64_t eight = 8;
  const std::array<Answer, 3> answers{{{0, nullptr},
                                       {1, reinterpret_cast<const std::byte*>(&seven)},
                                       {2, reinterpret_cast<const std::byte*>(&eight)}}};
  const Combined combined = policy.combine(answers, {}, layout, nullptr);
  CHECK(combined.answered);
  CHECK_EQ(combined.winner, 1U);
  CHECK_NEAR(combined.confidence, 0.2, 1e-6);
}

TEST(a_mean_leaves_out_rows_that_are_not_finite) {
  const WeightedEnsemble policy({2.0, 1.0, 1.0}, Ballot(kScores, true));
  const OutputLayout layout(kScores);
  const std::array<float, 3> a{0.0F, 1.0F, 0.0F};
  const std::array<float, 3> b{3.0F, 1.0F, 0.0F};
  const std::array<float, 3> bad{NAN, 1.0F, 0.0F};
  const std::array<Answer, 3> answers{{{0, reinterpret_cast<const std::byte*>(a.data())},
                                       {1, reinterpret_cast<const std::byte*>(b.data())},
                                       {2, reinterpret_cast<const std::byte*>(bad.data())}}};
  std::array<float, 3> mean{};
  const Combined combined =
      policy.combine(answers, {}, layout, reinterpret_cast<std::byte*>(mean.data()));
  CHECK_EQ(combined.winner, Combined::kWritten);
  CHECK_NEAR(mean[0], 1.0, 1e-6);
  CHECK_NEAR(mean[1], 1.0, 1e-6);
  CHECK(combined.confidence <= 0.75F);
}

TEST(under_load_the_most_trusted_are_asked) {
  const WeightedEnsemble policy({1.0, 3.0, 2.0}, Ballot(kLabel, false));
  std::array<Choice, 3> chosen;
  const SelectionInput input{.models = 3, .most = 2};
  CHECK_EQ(policy.select(input, {}, chosen), 2U);
  CHECK_EQ(chosen[0].model, 1);
  CHECK_EQ(chosen[1].model, 2);
}

TEST(a_canary_that_fails_is_withdrawn_and_a_good_one_is_not) {
  for (const double failing : {0.02, 0.2}) {
    const Canary policy({.model = 1, .share = 0.1});
    State state(policy, 2);
    Random random(9);
    int asked_late = 0;
    for (int i = 0; i < 50'000; ++i) {
      const Choice choice = choose(policy, state, 2, random);
      if (i >= 25'000) asked_late += choice.model == 1;
      const bool fails = random.uniform() < (choice.model == 1 ? failing : 0.02);
      const Service served{choice.model, fails ? Cause::kModelError : Cause::kNone, !fails};
      static_cast<void>(policy.watch({&served, 1}, state));
    }
    CHECK_EQ(asked_late > 0, failing < 0.1);
    policy.begin(state);
    std::array<Standing, 2> standings;
    policy.describe(state, standings);
    CHECK_NEAR(standings[1].share, 0.1, 1e-9);  // started again
  }
}

TEST(a_failure_counts_as_a_loss_unless_it_is_switched_off) {
  const Service served{0, Cause::kDeadline, false, 0.5F};
  const Service withdrawn{0, Cause::kCancelled, false, 0.5F};
  const Exp3 policy(0.1, 0.1, 1e-3);
  State state(policy, 2);
  static_cast<void>(policy.watch({&withdrawn, 1}, state));
  CHECK_EQ(state.words[0].load(), 0.0);
  static_cast<void>(policy.watch({&served, 1}, state));
  CHECK_NEAR(state.words[0].load(), -0.2, 1e-9);
  const Exp3 deaf(0.1, 0.1, 1e-3, kNoFailureLoss);
  CHECK(!deaf.watches());
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
