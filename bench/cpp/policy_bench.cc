// What policies take beside a choice by hand: select, and observe, of four models.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "measure.h"
#include "selection/epsilon_greedy.h"
#include "selection/exp3.h"
#include "selection/exp4.h"
#include "selection/policy.h"
#include "selection/thompson.h"
#include "selection/ucb1.h"

namespace {

using namespace clipper;

constexpr std::uint16_t kModels = 4;
constexpr std::uint64_t kOperations = 200'000;

/// What one would write oneself: Exp3 with plain weights, which are normalised at every step,
/// behind a lock.
class LockedExp3 {
 public:
  std::size_t select(double point) {
    const std::scoped_lock lock(mutex_);
    double sum = 0.0;
    for (const double weight : weights_) sum += weight;
    for (std::size_t model = 0; model + 1 < weights_.size(); ++model) {
      point -= weights_[model] / sum;
      if (point < 0.0) return model;
    }
    return weights_.size() - 1;
  }
  void observe(std::size_t model, double loss, double propensity) {
    const std::scoped_lock lock(mutex_);
    weights_[model] *= std::exp(-0.05 * loss / propensity);
    double sum = 0.0;
    for (const double weight : weights_) sum += weight;
    for (double& weight : weights_) weight = std::max(weight / sum, 1e-12);
  }

 private:
  std::mutex mutex_;
  std::vector<double> weights_ = std::vector<double>(kModels, 0.25);
};

struct Learner {
  explicit Learner(const Policy& its_policy)
      : policy(its_policy), numbers(its_policy.state_words(kModels)) {
    policy.begin(numbers);
  }

  Choice select(std::uint64_t i) {
    std::array<Choice, kModels> chosen{};
    const std::size_t count = policy.select({kModels, 0, false, mix_bits(i)}, numbers, chosen);
    bench::expect(count >= 1, "it chooses");
    return chosen[0];
  }
  void observe(std::uint16_t model, float propensity) {
    const Observation seen{model, model == 2 ? 0.1F : 0.6F, propensity};
    policy.observe(std::span(&seen, 1), numbers);
  }

  const Policy& policy;
  std::vector<std::atomic<double>> numbers;
};

double point_of(std::uint64_t i) { return static_cast<double>(mix_bits(i) >> 11) * 0x1.0p-53; }

}  // namespace

int main(int argc, char** argv) {
  const bench::Bench bench(argc, argv);
  constexpr float kFailureLoss = 1.0F;
  const EpsilonGreedy greedy(0.05, 1000.0, kFailureLoss);
  const Ucb1 ucb(1000.0, kFailureLoss);
  const Thompson thompson(1000.0, kFailureLoss);
  const Exp3 exp3(0.05, 0.05, 0.01, kFailureLoss);
  const Exp4 exp4(0.05, 0.01, Ballot(), kFailureLoss);
  const std::vector<std::pair<std::string, const Policy*>> policies{{"Exp3", &exp3},
                                                                    {"EpsilonGreedy", &greedy},
                                                                    {"Ucb1", &ucb},
                                                                    {"Thompson", &thompson},
                                                                    {"Exp4", &exp4}};

  LockedExp3 locked;
  std::vector<std::unique_ptr<Learner>> learners;
  std::vector<bench::Contender> select{{"weights and a lock", [&](auto n) {
                                          for (std::uint64_t i = 0; i < n; ++i) {
                                            bench::keep(locked.select(point_of(i)));
                                          }
                                        }}};
  std::vector<bench::Contender> observe{{"weights and a lock", [&](auto n) {
                                           for (std::uint64_t i = 0; i < n; ++i) {
                                             locked.observe(i % kModels, 0.5, 0.25);
                                           }
                                         }}};
  for (const auto& [name, policy] : policies) {
    learners.push_back(std::make_unique<Learner>(*policy));
    Learner& learner = *learners.back();
    select.push_back({name, [&learner](auto n) {
                        for (std::uint64_t i = 0; i < n; ++i) bench::keep(learner.select(i));
                      }});
    observe.push_back({name, [&learner](auto n) {
                         for (std::uint64_t i = 0; i < n; ++i) {
                           learner.observe(static_cast<std::uint16_t>(i % kModels), 0.25F);
                         }
                       }});
  }
  bench.compare("choose one of four models", kOperations, select);
  bench.compare("observe a loss of one of four models", kOperations, observe);
  return 0;
}
