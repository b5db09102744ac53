// What a controller would do may be asked at any time: it teaches the controller nothing.
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "base/random.h"
#include "batching/aimd.h"
#include "batching/deadline.h"
#include "batching/fixed.h"
#include "batching/quantile.h"
#include "check.h"
#include "simulation_scene.h"

namespace {

using namespace clipper;
using namespace clipper::testing;

using Make = std::function<std::unique_ptr<Controller>(std::shared_ptr<LatencyModel>)>;

const std::vector<Make>& strategies() {
  static const std::vector<Make> all{
      [](auto known) { return std::make_unique<FixedController>(3, std::move(known)); },
      [](auto known) { return std::make_unique<AimdController>(AimdOptions{}, std::move(known)); },
      [](auto known) {
        return std::make_unique<QuantileController>(QuantileOptions{}, std::move(known));
      },
      [](auto known) {
        return std::make_unique<DeadlineController>(DeadlineOptions{}, std::move(known));
      },
      [](auto known) {
        return std::make_unique<DeadlineController>(DeadlineOptions{.delay_ns = kMillisecond},
                                                    std::move(known));
      }};
  return all;
}

Situation any_situation(Nanos now_ns, std::uint64_t arrived, Random& random) {
  Situation situation;
  situation.now_ns = now_ns;
  situation.free_at_ns = now_ns + static_cast<Nanos>(random.below(2)) * 3 * kMillisecond;
  const bool best_effort = random.below(8) == 0;
  const auto slo_ns = static_cast<Nanos>(1 + random.below(40)) * kMillisecond;
  situation.head_arrived_ns =
      now_ns - static_cast<Nanos>(random.below(static_cast<std::uint64_t>(slo_ns)));
  situation.head_deadline_ns = best_effort ? kNever : situation.head_arrived_ns + slo_ns;
  situation.waiting_rows = static_cast<std::uint32_t>(1 + random.below(200));
  situation.arrived_rows = arrived;
  situation.tail_deadline_ns = random.below(2) == 0 ? 0 : situation.head_deadline_ns;
  return situation;
}

bool equal(const Decision& a, const Decision& b) {
  return a.kind == b.kind && a.rows == b.rows && a.until_ns == b.until_ns;
}

/// Runs as a model of 1 ms and 0.1 ms a row takes, now and then ten times as long.
Run any_run(std::uint32_t rows, Nanos now_ns, Random& random) {
  const Nanos calm_ns = kMillisecond + Nanos{rows} * kMillisecond / 10;
  return {rows, now_ns, now_ns + calm_ns * (random.below(50) == 0 ? 10 : 1), false};
}

TEST(asking_what_a_controller_would_do_changes_nothing) {
  for (const bool takes_over : {false, true}) {
    for (const Make& make : strategies()) {
      Random random(17);
      const auto knows = [&] {
        if (!takes_over) return std::shared_ptr<LatencyModel>();
        DeadlineController before;
        Random same(5);
        for (int i = 0; i < 50; ++i) {
          before.observe(any_run(static_cast<std::uint32_t>(1 + same.below(64)), i, same));
        }
        return before.shared_latency();
      };
      const auto asked = make(knows());
      const auto left_alone = make(knows());
      Nanos now_ns = 10 * kSecond;
      for (std::uint64_t step = 0; step < 20'000; ++step) {
        now_ns += static_cast<Nanos>(random.below(static_cast<std::uint64_t>(10 * kMillisecond)));
        for (std::uint64_t i = random.below(3); i > 0; --i) {
          static_cast<void>(asked->foresee(any_situation(now_ns, step, random)));
        }
        const Situation situation = any_situation(now_ns, step, random);
        const Decision foreseen = asked->foresee(situation);
        const Decision decided = asked->decide(situation);
        CHECK(equal(foreseen, decided));
        CHECK(equal(decided, left_alone->decide(situation)));
        if (decided.kind != Decision::Kind::kRun) continue;
        const Run run = any_run(decided.rows, now_ns, random);
        asked->observe(run);
        left_alone->observe(run);
      }
    }
  }
}

// ---- where several priorities wait --------------------------------------------------------------

/// Decides like the default strategy, and lets a test look on.
class Watched final : public Controller {
 public:
  explicit Watched(std::function<void(const Decision&)> on_decision)
      : on_decision_(std::move(on_decision)) {}

  [[nodiscard]] Decision decide(const Situation& situation) noexcept override {
    const Decision decision = real_.decide(situation);
    on_decision_(decision);
    return decision;
  }
  [[nodiscard]] Decision foresee(const Situation& situation) const noexcept override {
    return real_.foresee(situation);
  }
  void observe(const Run& run) noexcept override { real_.observe(run); }
  [[nodiscard]] Nanos run_bound_ns(std::uint32_t rows) const noexcept override {
    return real_.run_bound_ns(rows);
  }
  [[nodiscard]] Nanos drain_ns(std::uint32_t rows, Nanos slo_ns) const noexcept override {
    return real_.drain_ns(rows, slo_ns);
  }
  [[nodiscard]] std::uint32_t batch_limit(Nanos slo_ns) const noexcept override {
    return real_.batch_limit(slo_ns);
  }
  [[nodiscard]] bool is_warm() const noexcept override { return real_.is_warm(); }

 private:
  DeadlineController real_;
  std::function<void(const Decision&)> on_decision_;
};

constexpr Nanos kSlo = 10 * kMillisecond;

TEST(rows_lent_to_another_priority_decide_nothing) {
  Scene scene;
  std::uint64_t decided = 0;
  scene.deploy(std::make_unique<Watched>([&](const Decision& decision) {
                 decided += decision.kind == Decision::Kind::kRun;
               }),
               linear_model(kMillisecond, kMillisecond / 10));
  std::uint64_t seed = 3;
  for (const Priority priority : {Priority{0}, Priority{1}, Priority{2}}) {
    scene.add_load({.application = &scene.add_application(kSlo),
                    .arrivals = first_of(2'000, poisson_arrivals(800, seed++)),
                    .priority = priority});
  }
  scene.simulator.run();
  scene.check_nothing_is_left();
  std::uint64_t shared = 0;
  for (const std::uint32_t rows : scene.batch_rows[0]) shared += rows > 1;
  CHECK(shared > 100);
  CHECK_EQ(decided, scene.batch_rows[0].size());
}

TEST(a_turn_whose_rows_have_died_is_charged_to_who_is_served_instead) {
  Scene scene;
  Engine& engine = scene.simulator.engine();
  const auto give_up = [&](Query* query) {
    Outcome outcome;
    engine.collect(*query, 0, outcome);
    engine.release(*query);
  };
  Query* doomed = nullptr;
  DeploymentOptions options;
  options.max_batch = 1;
  scene.deploy({}, options);
  Replica& replica = scene.deployment().add_replica(std::make_unique<Watched>([&](const Decision&) {
    if (doomed != nullptr) give_up(std::exchange(doomed, nullptr));
  }));
  for (int i = 0; i < 20; ++i) replica.controller().observe({1, 0, 8 * kMillisecond, false});
  Application& application = scene.add_application(kNever);
  const auto ask = [&](Priority priority) {
    const std::int64_t number = 1;
    Asking asking;
    asking.attended = true;
    asking.priority = priority;
    Refusal refusal{};
    return engine.submit(application, reinterpret_cast<const std::byte*>(&number), 1, asking,
                         refusal);
  };
  const auto run_one = [&] {
    Nanos retry_at_ns = kNever;
    Batch* batch = engine.drive_for_another(replica, retry_at_ns);
    CHECK(batch != nullptr);
    CHECK_EQ(batch->rows, 1u);
    const int priority = batch->entries.front().priority;
    engine.fail(*batch, Cause::kModelError, 0);
    engine.release_driver(replica);
    return priority;
  };
  std::vector<Query*> asked;
  for (int i = 0; i < 40; ++i) asked.push_back(ask(0));
  for (int i = 0; i < 30; ++i) {  // each takes the turn, and dies while it is decided on
    doomed = ask(1);
    CHECK_EQ(run_one(), 0);
  }
  for (int i = 0; i < 9; ++i) {  // those who wait were always served: they are owed nothing yet
    asked.push_back(ask(1));
    CHECK_EQ(run_one(), 1);
  }
  for (Query* query : asked) give_up(query);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
