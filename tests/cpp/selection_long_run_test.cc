// Multiplicative weights after ten million updates: finite, and nobody is locked out for good.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"
#include "check.h"
#include "selection/exp3.h"
#include "selection/exp4.h"

namespace {

using namespace clipper;

constexpr std::uint16_t kModels = 3;
constexpr int kUpdates = 10'000'000;
constexpr double kFloor = 0.01;

struct Learner {
  explicit Learner(const Policy& its_policy)
      : policy(its_policy), words(its_policy.state_words(kModels)) {
    policy.begin(words);
  }
  void lose(std::uint16_t model, float loss, float propensity = 1.0F) {
    const Observation seen{model, loss, propensity};
    policy.observe({&seen, 1}, words);
  }
  std::array<Standing, kModels> standings() {
    std::array<Standing, kModels> made;
    policy.describe(words, made);
    return made;
  }
  /// Weights are numbers that add up to 1, none of them below its floor.
  void check_sound() {
    double sum = 0.0;
    double largest = 0.0;
    for (const Standing& standing : standings()) {
      sum += standing.weight;
      largest = std::max(largest, standing.weight);
    }
    CHECK_NEAR(sum, 1.0, 1e-9);
    for (const Standing& standing : standings()) CHECK(standing.weight >= 0.999 * kFloor * largest);
    for (const std::atomic<double>& word : words) CHECK(std::isfinite(word.load()));
  }

  const Policy& policy;
  std::vector<std::atomic<double>> words;
};

TEST(exp4_is_sound_after_ten_million_updates) {
  const Exp4 policy(1.0, kFloor, Ballot());
  Learner learner(policy);
  Random random(5);
  for (int i = 0; i < kUpdates; ++i) {
    learner.lose(static_cast<std::uint16_t>(random.below(kModels)), 1.0F);
  }
  learner.check_sound();
}

TEST(exp3_is_sound_after_ten_million_updates_with_the_smallest_propensities) {
  const Exp3 policy(0.5, 0.0, kFloor);
  Learner learner(policy);
  Random random(6);
  constexpr std::array<float, 4> kPropensities{1.0F, 0.1F, 1e-6F, 0.0F};
  for (int i = 0; i < kUpdates; ++i) {
    const std::uint64_t bits = random();
    learner.lose(static_cast<std::uint16_t>(bits % kModels),
                 static_cast<float>(bits >> 40) * 0x1p-24F, kPropensities[(bits >> 32) % 4]);
  }
  learner.check_sound();
}

/// How many turns a model takes to win most of the weight that has lost ten million times, when
/// from now on it is the only one that never loses.
template <typename Turn>
int turns_to_recover(Learner& learner, Turn&& turn) {
  for (int turns = 1; turns <= 10'000; ++turns) {
    turn();
    if (learner.standings()[0].weight > 0.5) return turns;
  }
  return 10'001;
}

TEST(exp4_finds_a_model_again_that_has_failed_ten_million_times) {
  const Exp4 policy(0.1, kFloor, Ballot());
  Learner learner(policy);
  for (int i = 0; i < kUpdates; ++i) learner.lose(0, 1.0F);
  CHECK(learner.standings()[0].weight < 0.006);
  const int turns = turns_to_recover(learner, [&] {
    for (const std::uint16_t model : {std::uint16_t{1}, std::uint16_t{2}})
      learner.lose(model, 1.0F);
  });
  CHECK(turns <= 54);  // (ln 100 + ln 2) / 0.1: as many as it takes to make up for the floor
}

TEST(exp3_finds_a_model_again_that_has_failed_ten_million_times) {
  const Exp3 policy(0.1, 0.05, kFloor);
  Learner learner(policy);
  for (int i = 0; i < kUpdates; ++i) learner.lose(0, 1.0F, 0.02F);
  CHECK(learner.standings()[0].weight < 0.006);
  Random random(7);
  const int turns = turns_to_recover(learner, [&] {
    std::array<Choice, kModels> chosen;
    const SelectionInput input{.models = kModels, .random = random()};
    CHECK_EQ(policy.select(input, learner.words, chosen), 1U);
    if (chosen[0].model != 0) learner.lose(chosen[0].model, 1.0F, chosen[0].propensity);
  });
  CHECK(turns <= 300);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
