// Ensembles whose models share a machine, in simulated time: under load the models that are trusted
// least are spared first, so that the others keep their deadlines; afterwards all are asked again.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "batching/deadline.h"
#include "check.h"
#include "selection/majority_vote.h"
#include "selection/weighted_ensemble.h"
#include "simulation_scene.h"

namespace {

using namespace clipper;
using namespace clipper::testing;

constexpr Nanos kSlo = 20 * kMillisecond;
constexpr std::size_t kModels = 4;
constexpr std::array<const char*, kModels> kNames{"a", "b", "c", "d"};

/// Four models on one machine, which takes as many times as long for each as run at once. Queries
/// come at twice what the whole ensemble can do from second 2 to 6, before and after at a
/// twentieth.
class Ensemble {
 public:
  Ensemble(std::unique_ptr<Policy> policy, std::uint16_t fewest_asks) : simulator_(3) {
    std::vector<Model*> models;
    for (std::size_t i = 0; i < kModels; ++i) {
      SimulatedModel model;
      model.latency_ns = [this](std::uint32_t rows) {
        const auto others = std::count_if(busy_until_.begin(), busy_until_.end(),
                                          [this](Nanos at) { return at > simulator_.now_ns(); });
        return (static_cast<double>(kMillisecond) / 2 + rows * 2.0e5) *
               static_cast<double>(1 + others);
      };
      std::vector<SimulatedReplica> replicas;
      replicas.push_back({std::make_unique<DeadlineController>(), std::move(model)});
      models.push_back(&simulator_.deploy(kNames[i], std::move(replicas)));
      deployments_.push_back(models.back()->current());
    }
    application_ =
        &simulator_.engine().add_application("vote", models, std::move(policy), kSlo, 0.0F);
    application_->fewest_asks = fewest_asks;
    simulator_.on_run = [this](const SimulatedRun& run) { note(run); };
    simulator_.on_answer = [this](const SimulatedAnswer& answer) { note(answer); };
    add_load(0, seconds(2), kWhole / 20, 1);
    add_load(seconds(2), seconds(6), kWhole * 2, 2);
    add_load(seconds(6), seconds(9), kWhole / 20, 3);
    simulator_.run();
    CHECK(simulator_.leftovers().none());
    CHECK_EQ(simulator_.wrong_answers(), 0u);
  }

  struct Phase {
    std::uint64_t asked = 0;
    std::uint64_t in_time = 0;
    std::array<std::uint64_t, kModels> rows{};  // that each model ran and had done in time

    [[nodiscard]] double share_in_time() const {
      return static_cast<double>(in_time) / static_cast<double>(asked);
    }
    [[nodiscard]] double share_of(std::size_t model) const {
      return static_cast<double>(rows[model]) / static_cast<double>(asked);
    }
  };
  /// Half a second after the load has changed, until it changes again.
  [[nodiscard]] const Phase& calm() const { return phases_[0]; }
  [[nodiscard]] const Phase& overload() const { return phases_[1]; }
  [[nodiscard]] const Phase& after() const { return phases_[2]; }
  [[nodiscard]] std::uint64_t spared() const { return application_->asks_spared.load(); }

 private:
  // Queries a second that all four can answer: 0.2 ms a row each, and some fixed cost.
  static constexpr double kWhole = 1'000;

  void add_load(Nanos from_ns, Nanos until_ns, double rate, std::uint64_t seed) {
    simulator_.add_load({.application = application_,
                         .arrivals = between(from_ns, until_ns, poisson_arrivals(rate, seed))});
  }
  Phase* phase_at(Nanos arrived_ns) {
    for (const auto& [from, until, phase] :
         {std::tuple{0.5, 2.0, 0}, std::tuple{2.5, 6.0, 1}, std::tuple{6.5, 9.0, 2}}) {
      if (arrived_ns >= seconds(from) && arrived_ns < seconds(until)) return &phases_[phase];
    }
    return nullptr;
  }
  void note(const SimulatedRun& run) {
    for (std::size_t i = 0; i < kModels; ++i) {
      if (deployments_[i] != &run.replica.deployment()) continue;
      busy_until_[i] = run.end_ns;
      for (const WaitingRows& entry : run.batch.entries) {
        Phase* phase = phase_at(entry.arrived_ns);
        if (phase != nullptr && run.end_ns <= entry.deadline_ns) phase->rows[i] += entry.run.rows;
      }
    }
  }
  void note(const SimulatedAnswer& answer) {
    Phase* phase = phase_at(answer.arrived_ns);
    if (phase == nullptr) return;
    ++phase->asked;
    phase->in_time += answer.is_in_time();
  }

  Simulator simulator_;
  Application* application_ = nullptr;
  std::vector<Deployment*> deployments_;
  std::array<Nanos, kModels> busy_until_{};
  std::array<Phase, 3> phases_;
};

std::unique_ptr<Policy> weighted() {
  return std::make_unique<WeightedEnsemble>(std::vector{1.0, 2.0, 4.0, 3.0}, Ballot());
}
// Its places, the most trusted first.
constexpr std::array<std::size_t, kModels> kByTrust{2, 3, 1, 0};

void show(const char* what, const Ensemble::Phase& phase) {
  std::fprintf(stderr, "  %-14s in time %.3f; models, by trust:", what, phase.share_in_time());
  for (const std::size_t model : kByTrust) std::fprintf(stderr, " %.3f", phase.share_of(model));
  std::fprintf(stderr, "\n");
}

TEST(an_overloaded_ensemble_keeps_its_deadlines_without_its_weakest_models) {
  const Ensemble all(weighted(), 0);
  const Ensemble fewer(weighted(), 1);
  show("all asked", all.overload());
  show("fewer asked", fewer.overload());
  CHECK_EQ(all.spared(), 0u);
  CHECK(fewer.spared() > 0);
  if (!kIsLongEnoughForStatistics) return;
  CHECK(fewer.overload().share_in_time() >= 0.99);
  // The most trusted one answers nearly every query, where before each answered half of them.
  CHECK(fewer.overload().share_of(kByTrust[0]) >= 0.98);
  CHECK(all.overload().share_of(kByTrust[0]) <= 0.8);
  for (std::size_t i = 1; i < kModels; ++i) {
    CHECK(fewer.overload().share_of(kByTrust[i]) <= fewer.overload().share_of(kByTrust[i - 1]));
  }
}

TEST(all_models_are_asked_while_there_is_time_and_again_when_load_falls) {
  const Ensemble fewer(weighted(), 1);
  show("before", fewer.calm());
  show("after", fewer.after());
  if (!kIsLongEnoughForStatistics) return;
  for (std::size_t i = 0; i < kModels; ++i) {
    CHECK(fewer.calm().share_of(i) >= 0.99);
    CHECK(fewer.after().share_of(i) >= 0.99);
  }
}

TEST(no_fewer_are_asked_than_the_application_allows) {
  const Ensemble two(weighted(), 2);
  show("two or more", two.overload());
  if (!kIsLongEnoughForStatistics) return;
  for (const std::size_t place : {0, 1}) {
    CHECK(two.overload().share_of(kByTrust[place]) > two.overload().share_of(kByTrust[2]));
  }
  CHECK(two.overload().share_of(kByTrust[1]) >= 0.9);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
