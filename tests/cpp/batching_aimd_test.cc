#include <cstdint>
#include <initializer_list>

#include "batching/aimd.h"
#include "batching/fixed.h"
#include "batching/quantile.h"
#include "batching_simulation.h"
#include "check.h"

namespace {

using clipper::AimdController;
using clipper::Controller;
using clipper::Decision;
using clipper::FixedController;
using clipper::kMillisecond;
using clipper::kNever;
using clipper::Nanos;
using clipper::QuantileController;
using clipper::Situation;

constexpr Nanos kSlo = 20 * kMillisecond;

Situation many_wait(Nanos now = 0) {
  Situation situation;
  situation.now_ns = situation.free_at_ns = situation.head_arrived_ns = now;
  situation.head_deadline_ns = now + kSlo;
  situation.waiting_rows = 100'000;
  return situation;
}

/// Runs saturated batches of latency a + b * rows; returns the mean size of the last half.
double settle(Controller& controller, int batches, double a_ms, double b_ms) {
  double sum = 0;
  for (int i = 0; i < batches; ++i) {
    const std::uint32_t rows = controller.decide(many_wait()).rows;
    const auto takes = static_cast<Nanos>((a_ms + b_ms * rows) * kMillisecond);
    controller.observe({rows, 0, takes, false});
    if (i >= batches / 2) sum += rows;
  }
  return sum / (batches - batches / 2);
}

TEST(aimd_settles_within_15_percent_of_the_largest_batch) {
  for (const double a_ms : {0.0, 1.0, 4.0, 6.6}) {
    for (const double b_ms : {0.02, 0.1, 0.5}) {
      AimdController controller;
      const double largest = (20 - a_ms) / b_ms;
      const double settled = settle(controller, 2000, a_ms, b_ms);
      CHECK_NEAR(settled, largest, 0.15 * largest);
    }
  }
}

TEST(aimd_backs_off_within_a_few_batches_after_a_slowdown) {
  AimdController controller;
  settle(controller, 2000, 1, 0.1);
  int batches = 0;
  for (; batches < 1000; ++batches) {
    const std::uint32_t rows = controller.decide(many_wait()).rows;
    const auto takes = static_cast<Nanos>((1 + 0.2 * rows) * kMillisecond);
    controller.observe({rows, 0, takes, false});
    if (takes <= kSlo) break;
  }
  CHECK(batches <= 8);  // 0.9^7 < 1/2
  CHECK_NEAR(settle(controller, 2000, 1, 0.2), 95, 0.15 * 95);
}

TEST(aimd_grows_only_when_full) {
  AimdController controller;
  Situation one = many_wait();
  one.waiting_rows = 1;
  for (int i = 0; i < 100; ++i) {
    const Decision decision = controller.decide(one);
    CHECK_EQ(decision.rows, 1u);
    controller.observe({decision.rows, 0, kMillisecond, false});
  }
  CHECK_EQ(controller.batch_limit(kSlo), 3u);
}

TEST(aimd_survives_an_outlier) {
  AimdController controller;
  settle(controller, 2000, 1, 0.1);
  const std::uint32_t before = controller.batch_limit(kSlo);
  controller.observe({before, 0, 100 * kSlo, false});
  CHECK(controller.batch_limit(kSlo) >= before * 9 / 10 - 1);
  CHECK_NEAR(settle(controller, 200, 1, 0.1), 190, 0.15 * 190);
}

TEST(aimd_never_falls_below_one_nor_above_its_limit) {
  AimdController controller({.slo_ns = kSlo, .max_batch = 7});
  for (int i = 0; i < 100; ++i) controller.observe({1, 0, 2 * kSlo, false});
  CHECK_EQ(controller.decide(many_wait()).rows, 1u);
  for (int i = 0; i < 100; ++i) controller.observe({100, 0, 1, false});
  CHECK_EQ(controller.decide(many_wait()).rows, 7u);
}

TEST(aimd_takes_rows_without_a_deadline) {
  AimdController controller;
  Situation situation = many_wait();
  situation.head_deadline_ns = kNever;
  const std::uint32_t rows = controller.decide(situation).rows;
  controller.observe({rows, 0, kMillisecond, false});
  CHECK_EQ(controller.decide(situation).rows, 3u);
}

TEST(fixed_runs_what_waits_up_to_its_size) {
  FixedController controller(8);
  Situation situation = many_wait();
  CHECK_EQ(controller.decide(situation).rows, 8u);
  situation.waiting_rows = 3;
  CHECK_EQ(controller.decide(situation).rows, 3u);
  CHECK_EQ(FixedController(0).decide(situation).rows, 1u);
}

TEST(every_strategy_learns_latencies_for_leading) {
  FixedController fixed(8);
  AimdController aimd;
  QuantileController quantile;
  for (Controller* controller : std::initializer_list<Controller*>{&fixed, &aimd, &quantile}) {
    CHECK_EQ(controller->run_bound_ns(1), 0);
    CHECK_EQ(controller->drain_ns(100, kSlo), 0);
    controller->observe({1, 0, kSlo, true});  // failed: teaches nothing
    CHECK_EQ(controller->run_bound_ns(1), 0);
    for (int i = 0; i < 20; ++i) controller->observe({1, 0, kMillisecond, false});
    CHECK(controller->is_warm());
    CHECK(controller->run_bound_ns(1) >= kMillisecond);
    CHECK(controller->drain_ns(100, kSlo) > 0);
  }
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
