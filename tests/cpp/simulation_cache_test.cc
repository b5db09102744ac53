// The prediction cache under load, in simulated time: what it is worth, and that nobody misses a
// deadline for having waited for somebody else's evaluation.
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "batching/deadline.h"
#include "check.h"
#include "simulation_scene.h"

namespace {

using namespace clipper;
using clipper::testing::kLength;
using clipper::testing::Scene;
using clipper::testing::seconds;

constexpr Nanos kSlo = 20 * kMillisecond;
constexpr double kCapacity = 9'000;  // rows a second of the model below, in large batches

std::unique_ptr<Controller> controller() {
  return std::make_unique<DeadlineController>(DeadlineOptions{}, nullptr);
}

/// Caches a share of what comes, or nothing.
void deploy(Scene& scene, std::size_t cache_bytes, std::size_t replicas = 1,
            std::uint32_t fail_one_in = 0) {
  std::vector<SimulatedReplica> made;
  for (std::size_t i = 0; i < replicas; ++i) {
    SimulatedModel model = linear_model(kMillisecond, 100 * kMicrosecond);
    model.sigma = 0.05;
    model.fail_one_in = fail_one_in;
    made.push_back({controller(), std::move(model)});
  }
  DeploymentOptions options;
  options.cache.bytes = cache_bytes;
  scene.deploy(std::move(made), std::move(options));
}

constexpr std::size_t kBytes = std::size_t{1} << 20;

TEST(a_load_that_repeats_itself_is_answered_at_three_times_the_capacity) {
  double in_time[2] = {0, 0};
  for (const std::size_t bytes : {std::size_t{0}, kBytes}) {
    Scene scene;
    deploy(scene, bytes);
    scene.add_load({.application = &scene.add_application(kSlo),
                    .arrivals = poisson_arrivals(3 * kCapacity, 1),
                    .different_queries = 2'000});
    scene.tally_from_ns = seconds(1);
    scene.simulator.run(seconds(5));
    CHECK_EQ(scene.simulator.wrong_answers(), 0U);
    CHECK_EQ(scene.dead_rows_run, 0U);
    in_time[bytes > 0] = scene.tallies[0].share_in_time();
  }
  CHECK(in_time[0] < 0.5);
  CHECK(in_time[1] > (clipper::testing::kIsLongEnoughForStatistics ? 0.999 : 0.9));
}

TEST(waiting_for_each_other_costs_nobody_a_deadline) {
  // Few different queries of different objectives, and a cache that keeps next to nothing: most of
  // what can be shared is shared in flight.
  double in_time[2] = {0, 0};
  std::uint64_t rows_run[2] = {0, 0};
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{64}}) {
    Scene scene;
    deploy(scene, bytes, 2);
    for (const Nanos slo_ns : {kSlo, 3 * kSlo, kSlo / 2}) {
      scene.add_load(
          {.application = &scene.add_application(slo_ns),
           .arrivals = poisson_arrivals(0.3 * kCapacity, static_cast<std::uint64_t>(slo_ns)),
           .different_queries = 500});
    }
    scene.tally_from_ns = seconds(1);
    scene.simulator.run(seconds(10));
    CHECK_EQ(scene.simulator.wrong_answers(), 0U);
    CHECK_EQ(scene.dead_rows_run, 0U);
    double asked = 0;
    for (const auto& tally : scene.tallies) {
      in_time[bytes > 0] += static_cast<double>(tally.in_time);
      asked += static_cast<double>(tally.asked);
    }
    in_time[bytes > 0] /= asked;
    rows_run[bytes > 0] = scene.rows_run();
    if (bytes > 0) {
      const auto joined = static_cast<double>(scene.deployment().cache()->statistics().joined);
      CHECK(joined > asked / 50);
    }
  }
  CHECK(rows_run[1] < rows_run[0]);
  if (clipper::testing::kIsLongEnoughForStatistics) CHECK(in_time[1] >= in_time[0] - 0.001);
}

TEST(nothing_is_left_of_a_million_queries_that_give_up_fail_and_expire) {
  Scene scene;
  deploy(scene, kBytes / 16, 2, 50);
  const auto queries = static_cast<std::uint64_t>(250'000 * kLength);
  for (const std::uint64_t different : {50U, 3'000U, 0U, 500U}) {
    scene.add_load({.application = &scene.add_application(kSlo / (1 + different % 3)),
                    .arrivals = first_of(queries, poisson_arrivals(1.5 * kCapacity, different)),
                    .rows = 1 + static_cast<std::uint32_t>(different % 4),
                    .different_queries = different,
                    .priority = static_cast<Priority>(different % 5 == 0 ? 0 : 1),
                    .cancelled_share = 0.2,
                    .cancel_after_ns = 2 * kMillisecond});
  }
  scene.simulator.run();
  scene.check_nothing_is_left();
  CHECK_EQ(scene.simulator.answered(), 4 * queries);
  CHECK_EQ(scene.dead_rows_run, 0U);
  const CacheStatistics statistics = scene.deployment().cache()->statistics();
  CHECK_EQ(statistics.flights, 0U);
  CHECK(statistics.bytes <= kBytes / 16);
  CHECK(statistics.hits > queries / 10);
  CHECK(statistics.joined > queries / 100);
  std::uint64_t expired = 0;
  for (const auto& tally : scene.tallies) expired += tally.expired + tally.given_up_early;
  CHECK(expired > queries / 10);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
