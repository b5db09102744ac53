// Priorities: who goes first, and who gets something nevertheless. The window alone, then the whole
// engine in simulated time.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

#include "batching/deadline.h"
#include "check.h"
#include "queue/window.h"
#include "simulation_scene.h"

namespace {

using namespace clipper;
using namespace clipper::testing;

constexpr Nanos kSlo = 10 * kMillisecond;

WaitingRows row(std::uint32_t slot, Priority priority, Nanos deadline_ns) {
  WaitingRows entry;
  entry.handle.slot = slot;
  entry.priority = priority;
  entry.deadline_ns = deadline_ns;
  entry.run.rows = 1;
  return entry;
}

std::uint32_t pop(Window& window) {
  const std::uint32_t slot = window.head().handle.slot;
  window.pop_head();
  return slot;
}

constexpr auto kCost = [](std::uint32_t rows) { return Nanos{rows} * kMillisecond; };

TEST(the_most_urgent_rank_goes_first_and_each_by_deadline) {
  Window window;
  window.push(row(1, 0, 50));
  window.push(row(2, 0, 40));
  window.push(row(3, kMostPriority, 90));
  window.push(row(4, kLeastPriority, 10));
  window.push(row(5, kMostPriority, 80));
  window.choose_rank(kCost);
  CHECK_EQ(window.rows(), 5u);
  CHECK_EQ(window.rank_rows(), 2u);
  CHECK_EQ(window.of_rank(window.next_rank()).rows(), 2u);
  for (const std::uint32_t slot : {5u, 3u, 2u, 1u, 4u}) CHECK_EQ(pop(window), slot);
  CHECK(window.empty());
  CHECK_EQ(window.entries(), 0u);
}

TEST(a_rank_that_waits_is_due_when_it_is_owed_its_own_batch) {
  Window window;
  window.push(row(1, -1, 50));
  window.push(row(2, 0, 40));
  int batches = 0;
  for (; window.choose_rank(kCost), window.head().priority == 0; ++batches) {
    window.charge(0, 2 * kMillisecond);  // of an urgent batch; there is always another
  }
  CHECK_EQ(batches, 5);  // a tenth of 2 ms each, for a batch of 1 ms
  window.charge(-1, kMillisecond);
  window.choose_rank(kCost);
  CHECK_EQ(window.head().priority, 0);  // the debt is paid
}

TEST(nobody_is_owed_anything_for_the_time_when_no_rows_waited) {
  Window window;
  window.push(row(1, 0, 40));
  for (int i = 0; i < 1000; ++i) window.charge(0, kSecond);
  window.push(row(2, -1, 50));
  window.choose_rank(kCost);
  CHECK_EQ(window.head().priority, 0);
}

TEST(what_is_swept_out_of_a_rank_is_gone) {
  Window window;
  for (std::uint32_t slot = 0; slot < 30; ++slot) {
    window.push(row(slot, static_cast<Priority>(static_cast<int>(slot % 3) - 1), 100 - slot));
  }
  window.choose_rank(kCost);
  int buried = 0;
  window.sweep([](const WaitingRows& entry) { return entry.priority == 1; },
               [&](const WaitingRows&) { ++buried; });
  CHECK_EQ(buried, 10);
  CHECK_EQ(window.rows(), 20u);
  CHECK_EQ(window.entries(), 20u);
  CHECK_EQ(window.head().handle.slot, 28u);
}

TEST(lost_heads_of_other_ranks_are_handed_over) {
  Window window;
  window.push(row(1, 0, 10));
  window.push(row(2, -1, 5));
  window.push(row(3, -1, 50));
  window.push(row(4, -2, 6));
  window.choose_rank(kCost);
  std::vector<std::uint32_t> dropped;
  window.drop_lost_heads([](const WaitingRows& head) { return head.deadline_ns < 20; },
                         [&] { dropped.push_back(pop(window)); });
  CHECK_EQ(dropped.size(), 2u);
  CHECK_EQ(window.head().handle.slot, 1u);  // of the chosen rank, whatever its deadline
  CHECK_EQ(window.rows(), 2u);
}

SimulatedModel usual_model() { return linear_model(900 * kMicrosecond, 100 * kMicrosecond); }

/// Loads of these priorities, each with this rate as a multiple of the SLO capacity.
struct Claim {
  Priority priority;
  double load;
};

std::unique_ptr<Scene> serve(const SimulatedModel& model, const std::vector<Claim>& claims,
                             double length_s) {
  auto scene = std::make_unique<Scene>();
  scene->deploy(std::make_unique<DeadlineController>(), model);
  scene->tally_from_ns = seconds(0.5);
  std::uint64_t seed = 1;
  for (const Claim& claim : claims) {
    const double rate = claim.load * slo_capacity(model, kSlo);
    scene->add_load({.application = &scene->add_application(kSlo),
                     .arrivals = between(0, seconds(length_s), poisson_arrivals(rate, seed++)),
                     .priority = claim.priority});
  }
  scene->simulator.run();
  scene->check_nothing_is_left();
  return scene;
}

/// Rows in time as a share of the SLO capacity.
double goodput(const Scene& scene, std::size_t load, const SimulatedModel& model, double length_s) {
  const double taken_s = static_cast<double>(seconds(length_s) - scene.tally_from_ns) / 1e9;
  return static_cast<double>(scene.tallies[load].in_time) / taken_s / slo_capacity(model, kSlo);
}

TEST(low_priority_keeps_a_share_under_permanent_overload_by_high) {
  for (const SimulatedModel& model :
       {usual_model(), linear_model(4 * kMillisecond, 100 * kMicrosecond),
        linear_model(100 * kMicrosecond, kMillisecond)}) {
    const auto scene = serve(model, {{2, 3.0}, {-1, 1.0}}, 10);
    const double high = goodput(*scene, 0, model, 10);
    const double low = goodput(*scene, 1, model, 10);
    std::fprintf(stderr, "  high %.3f, low %.3f of the SLO capacity\n", high, low);
    CHECK(!kIsLongEnoughForStatistics || low >= 0.05);
    CHECK(!kIsLongEnoughForStatistics || low <= 0.2);
    CHECK(!kIsLongEnoughForStatistics || high >= 0.8);
  }
}

TEST(every_priority_keeps_a_share_when_all_overload) {
  const SimulatedModel model = usual_model();
  std::vector<Claim> claims;
  for (int priority = kMostPriority; priority >= kLeastPriority; --priority) {
    claims.push_back({static_cast<Priority>(priority), 1.5});
  }
  const auto scene = serve(model, claims, 10);
  for (std::size_t i = 0; i < claims.size(); ++i) {
    const double share = goodput(*scene, i, model, 10);
    std::fprintf(stderr, "  priority %d: %.3f\n", claims[i].priority, share);
    CHECK(!kIsLongEnoughForStatistics || share >= 0.03);
  }
  CHECK(!kIsLongEnoughForStatistics || goodput(*scene, 0, model, 10) >= 0.4);
}

TEST(high_priority_is_served_as_if_low_were_hardly_there) {
  const SimulatedModel model = usual_model();
  const auto scene = serve(model, {{1, 0.6}, {0, 2.0}}, 10);
  std::fprintf(stderr, "  in time: high %.3f, low %.3f\n", scene->tallies[0].share_in_time(),
               scene->tallies[1].share_in_time());
  CHECK(!kIsLongEnoughForStatistics || scene->tallies[0].share_in_time() >= 0.95);
  // What is left is used: low gets the rest of the capacity.
  CHECK(!kIsLongEnoughForStatistics || goodput(*scene, 1, model, 10) >= 0.25);
}

TEST(below_capacity_priorities_cost_nobody_anything) {
  const auto scene = serve(usual_model(), {{3, 0.3}, {0, 0.3}, {-3, 0.2}}, 10);
  for (const Tally& tally : scene->tallies) {
    CHECK(!kIsLongEnoughForStatistics || tally.share_in_time() >= 0.99);
  }
}

TEST(equal_priorities_are_served_as_if_there_were_none) {
  for (const double load : {0.8, 2.0}) {
    const auto without = serve(usual_model(), {{0, load / 2}, {0, load / 2}}, 2);
    for (const Priority priority : {kLeastPriority, kMostPriority}) {
      const auto with = serve(usual_model(), {{priority, load / 2}, {priority, load / 2}}, 2);
      CHECK(with->batch_rows == without->batch_rows);
      for (std::size_t i = 0; i < 2; ++i) {
        CHECK_EQ(with->tallies[i].in_time, without->tallies[i].in_time);
        CHECK_EQ(with->tallies[i].given_up_early, without->tallies[i].given_up_early);
      }
    }
  }
}

TEST(a_query_has_the_priority_of_its_application_unless_it_says_otherwise) {
  Scene scene;
  scene.deploy(std::make_unique<DeadlineController>(), usual_model());
  Engine& engine = scene.simulator.engine();
  Model& model = engine.add_model("again");
  model.set_current(&scene.deployment());
  Application& urgent = engine.add_application("urgent", {&model}, nullptr, kSlo, 0.0F, 2);
  Application& beyond = engine.add_application("beyond", {&model}, nullptr, kSlo, 0.0F, 100);
  const std::int64_t number = 1;
  const auto priority_of = [&](Application& application, Priority asked) {
    Asking asking;
    asking.attended = true;
    asking.priority = asked;
    Refusal refusal{};
    Query* query =
        engine.submit(application, reinterpret_cast<const std::byte*>(&number), 1, asking, refusal);
    const Priority given = query->priority;
    Outcome outcome;
    engine.collect(*query, 0, outcome);
    engine.release(*query);
    return int{given};
  };
  CHECK_EQ(priority_of(urgent, kApplicationsPriority), 2);
  CHECK_EQ(priority_of(urgent, -1), -1);
  CHECK_EQ(priority_of(urgent, 100), int{kMostPriority});
  CHECK_EQ(priority_of(beyond, kApplicationsPriority), int{kMostPriority});
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
