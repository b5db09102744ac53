// Delayed batching, in simulated time: what waiting on purpose buys, and what it costs.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

#include "batching/deadline.h"
#include "check.h"
#include "simulation_scene.h"

namespace {

using namespace clipper;
using namespace clipper::testing;

constexpr Nanos kSlo = 20 * kMillisecond;
constexpr Nanos kDelay = 2 * kMillisecond;
constexpr double kRate = 3'000;  // rows per second, a twentieth of what full batches can do

struct Served {
  double rows_per_busy_second = 0;
  double share_in_time = 0;
  Nanos median_latency_ns = 0;
  Nanos longest_latency_ns = 0;
};

Served serve(Nanos delay_ns, Nanos slo_ns) {
  Scene scene;
  scene.deploy(std::make_unique<DeadlineController>(DeadlineOptions{.delay_ns = delay_ns}),
               linear_model(450 * kMicrosecond, 5 * kMicrosecond));
  scene.add_load(slo_ns, between(0, seconds(10), poisson_arrivals(kRate, 7)));
  std::uint64_t rows = 0;
  Nanos busy_ns = 0;
  scene.also_on_run = [&](const SimulatedRun& run) {
    rows += run.batch.rows;
    busy_ns += run.end_ns - run.start_ns;
  };
  std::vector<Nanos> latencies;
  const auto tally = scene.simulator.on_answer;
  scene.simulator.on_answer = [&](const SimulatedAnswer& answer) {
    tally(answer);
    latencies.push_back(answer.done_ns - answer.arrived_ns);
  };
  scene.simulator.run();
  scene.check_nothing_is_left();
  std::sort(latencies.begin(), latencies.end());
  return {static_cast<double>(rows) / (static_cast<double>(busy_ns) * 1e-9),
          scene.tallies[0].share_in_time(), latencies[latencies.size() / 2], latencies.back()};
}

TEST(a_delay_multiplies_the_throughput_of_a_model_with_a_high_fixed_cost) {
  const Served eager = serve(0, kSlo);
  const Served delayed = serve(kDelay, kSlo);
  const double gain = delayed.rows_per_busy_second / eager.rows_per_busy_second;
  std::fprintf(stderr, "  rows per busy second %.0f -> %.0f (%.2f times), p50 %.2f -> %.2f ms\n",
               eager.rows_per_busy_second, delayed.rows_per_busy_second, gain,
               static_cast<double>(eager.median_latency_ns) * 1e-6,
               static_cast<double>(delayed.median_latency_ns) * 1e-6);
  CHECK(gain >= 3);
  CHECK(delayed.median_latency_ns <= eager.median_latency_ns + kDelay);
  CHECK_EQ(delayed.share_in_time, 1.0);
}

TEST(a_delay_never_costs_a_deadline) {
  // Hardly more than a batch takes: there is next to no time to wait.
  const Served eager = serve(0, 2 * kMillisecond);
  const Served delayed = serve(kDelay, 2 * kMillisecond);
  CHECK(eager.share_in_time >= 0.999);
  CHECK(delayed.share_in_time >= eager.share_in_time);
  CHECK(delayed.longest_latency_ns <= 2 * kMillisecond);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
