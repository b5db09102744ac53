#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/random.h"
#include "batching/aimd.h"
#include "batching/quantile.h"
#include "batching/quantile_line.h"
#include "check.h"
#include "simulation_scene.h"

namespace {

using namespace clipper;
using namespace clipper::testing;

constexpr Nanos kSlo = 20 * kMillisecond;

struct Sample {
  double rows;
  double latency_ns;
};

double loss(const std::vector<Sample>& samples, double alpha, double beta) {
  double sum = 0;
  for (const Sample& sample : samples) {
    const double above = sample.latency_ns - alpha * sample.rows - beta;
    sum += above > 0 ? 0.99 * above : -0.01 * above;
  }
  return sum;
}

/// Some line through two samples is among the best: tries them all.
double least_loss(const std::vector<Sample>& samples) {
  double least = 1e300;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (samples[i].rows == samples[j].rows) continue;
      const double alpha =
          (samples[i].latency_ns - samples[j].latency_ns) / (samples[i].rows - samples[j].rows);
      const double beta = samples[i].latency_ns - alpha * samples[i].rows;
      if (alpha >= 0 && beta >= 0) least = std::min(least, loss(samples, alpha, beta));
    }
  }
  return least;
}

TEST(the_line_is_the_best_of_all_that_brute_force_finds) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    Random random(seed);
    std::vector<Sample> samples;
    QuantileLine line;
    const std::size_t count = 4 + random.below(320);
    for (std::size_t i = 0; i < count; ++i) {
      const auto rows = static_cast<std::uint32_t>(1 + random.below(100));
      const double latency_ns = (1e6 + 1e5 * rows) * (1 + 0.3 * random.exponential(1.0));
      samples.push_back({static_cast<double>(rows), latency_ns});
      line.add(rows, latency_ns);
    }
    line.fit();
    const double least = least_loss(samples);
    CHECK(loss(samples, line.alpha(), line.beta()) < 1.001 * least);
  }
}

TEST(one_batch_in_a_hundred_lies_above_the_line) {
  Random random(3);
  QuantileLine line;
  std::vector<Sample> samples;
  for (int i = 0; i < 1000; ++i) {
    const auto rows = static_cast<std::uint32_t>(1 + random.below(200));
    const double latency_ns = (2e6 + 5e4 * rows) * (1 + 0.1 * random.exponential(1.0));
    samples.push_back({static_cast<double>(rows), latency_ns});
    line.add(rows, latency_ns);
  }
  line.fit();
  const auto above = std::count_if(samples.begin(), samples.end(), [&](const Sample& sample) {
    return sample.latency_ns > 1.0001 * (line.alpha() * sample.rows + line.beta());
  });
  CHECK(above >= 7 && above <= 13);
  CHECK(line.beta() > 1e6 && line.alpha() > 5e4);
}

TEST(one_size_is_read_as_if_rows_cost_alike) {
  QuantileLine line;
  for (int i = 0; i < 20; ++i) line.add(10, 1e6);
  CHECK_NEAR(line.alpha(), 1e5, 1);
  CHECK_EQ(line.beta(), 0);
  CHECK_EQ(line.largest_rows(), 10u);
}

TEST(only_the_last_thousand_batches_count) {
  QuantileLine line;
  for (std::uint32_t i = 0; i < 2000; ++i) line.add(1 + i % 50, 9e6 + 9e5 * (1 + i % 50));
  for (std::uint32_t i = 0; i < 1000; ++i) line.add(1 + i % 50, 1e6 + 1e5 * (1 + i % 50));
  line.fit();
  CHECK_NEAR(line.alpha(), 1e5, 1e3);
  CHECK_NEAR(line.beta(), 1e6, 1e4);
}

Situation many_wait() {
  Situation situation;
  situation.head_deadline_ns = kSlo;
  situation.waiting_rows = 100'000;
  return situation;
}

/// Runs saturated batches of latency a + b * rows; returns the mean size of the last half.
double settle(Controller& controller, int batches, double a_ms, double b_ms, double noise = 0) {
  Random random(4);
  double sum = 0;
  for (int i = 0; i < batches; ++i) {
    const std::uint32_t rows = controller.decide(many_wait()).rows;
    const double takes_ms = (a_ms + b_ms * rows) * (1 + noise * random.uniform());
    controller.observe({rows, 0, static_cast<Nanos>(takes_ms * 1e6), false});
    if (i >= batches / 2) sum += rows;
  }
  return sum / (batches - batches / 2);
}

TEST(quantile_settles_at_the_largest_batch_that_keeps_the_objective) {
  for (const double a_ms : {0.0, 1.0, 6.6}) {
    for (const double b_ms : {0.02, 0.1, 0.5}) {
      QuantileController controller;
      const double largest = (20 - a_ms) / b_ms;
      CHECK_NEAR(settle(controller, 2000, a_ms, b_ms), largest, 0.05 * largest);
      QuantileController noisy;
      CHECK_NEAR(settle(noisy, 4000, a_ms, b_ms, 0.1), largest / 1.1, 0.1 * largest);
    }
  }
}

TEST(quantile_shrinks_after_a_slowdown) {
  QuantileController controller;
  settle(controller, 2000, 1, 0.1);
  // One batch in a hundred may lie above the line: the eleventh slow one moves it, at the next fit.
  CHECK_NEAR(settle(controller, 600, 1, 0.2), 95, 0.15 * 95);
}

TEST(one_outlier_does_not_stop_quantiles_growth_for_good) {
  for (const int before : {1, 5, 50, 500}) {
    QuantileController controller;
    settle(controller, before, 1, 0.1);
    const std::uint32_t rows = controller.decide(many_wait()).rows;
    controller.observe({rows, 0, 100 * kSlo, false});
    CHECK_NEAR(settle(controller, 600, 1, 0.1), 190, 0.15 * 190);
  }
}

TEST(quantile_never_falls_below_one_nor_above_its_limit) {
  QuantileController controller({.slo_ns = kSlo, .max_batch = 7});
  CHECK_EQ(controller.decide(many_wait()).rows, 1u);
  for (int i = 0; i < 100; ++i) controller.observe({1, 0, 2 * kSlo, false});
  CHECK_EQ(controller.decide(many_wait()).rows, 1u);
  for (int i = 0; i < 1100; ++i) controller.observe({100, 0, 1, false});
  CHECK_EQ(controller.decide(many_wait()).rows, 7u);
  controller.observe({5, 0, kSlo, true});  // failed: teaches nothing
  CHECK_EQ(controller.decide(many_wait()).rows, 7u);
}

/// Rows per second of a saturated replica.
double throughput(std::unique_ptr<Controller> controller, const SimulatedModel& model) {
  Scene scene;
  scene.deploy(std::move(controller), model);
  scene.add_load(kNever, between(0, seconds(12), poisson_arrivals(15'000, 3)));
  scene.simulator.run(seconds(4));
  const std::uint64_t before = scene.rows_run();
  scene.simulator.run(seconds(12));
  return static_cast<double>(scene.rows_run() - before) / 8;
}

TEST(quantile_reaches_the_throughput_of_aimd) {
  for (const double sigma : {0.0, 0.05}) {
    SimulatedModel model = linear_model(kMillisecond, 100 * kMicrosecond);
    model.sigma = sigma;
    const double aimd =
        throughput(std::make_unique<AimdController>(AimdOptions{.slo_ns = kSlo}), model);
    const double quantile =
        throughput(std::make_unique<QuantileController>(QuantileOptions{.slo_ns = kSlo}), model);
    CHECK(aimd > 0);
    CHECK(!kIsLongEnoughForStatistics || std::abs(quantile / aimd - 1) <= 0.1);
  }
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
