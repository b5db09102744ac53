#include <cstdint>
#include <limits>
#include <random>

#include "batching/batches.h"
#include "batching/deadline.h"
#include "check.h"

namespace {

using clipper::DeadlineController;
using clipper::Decision;
using clipper::kMillisecond;
using clipper::kNever;
using clipper::kSecond;
using clipper::Nanos;
using clipper::Situation;
using Kind = clipper::Decision::Kind;

constexpr Nanos kSlo = 20 * kMillisecond;

Nanos line(std::uint32_t rows) { return (10 + rows) * kMillisecond / 10; }

/// A controller that knows `line`, with its last run at time 0.
void teach(DeadlineController& controller) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 200; ++i) {
    const auto rows = static_cast<std::uint32_t>(1 + random() % 128);
    controller.observe({rows, -line(rows), 0, false});
  }
}

Situation waiting(std::uint32_t rows, Nanos slack_ns, Nanos now_ns = kMillisecond) {
  Situation situation;
  situation.now_ns = situation.free_at_ns = now_ns;
  situation.head_deadline_ns = now_ns + slack_ns;
  situation.head_arrived_ns = situation.head_deadline_ns - kSlo;
  situation.waiting_rows = rows;
  return situation;
}

TEST(an_idle_replica_runs_what_waits_at_once) {
  DeadlineController controller;
  teach(controller);
  for (const std::uint32_t rows : {1u, 2u, 50u, 150u}) {
    const Decision decision = controller.decide(waiting(rows, kSlo));
    CHECK_EQ(decision.kind, Kind::kRun);
    CHECK_EQ(decision.rows, rows);
  }
}

TEST(a_batch_keeps_the_deadline_of_its_head) {
  DeadlineController controller;
  teach(controller);
  for (Nanos slack = 2 * kMillisecond; slack <= kSlo; slack += kMillisecond) {
    for (const std::uint32_t rows : {1u, 10u, 100u, 1000u}) {
      const Decision decision = controller.decide(waiting(rows, slack));
      if (decision.kind == Kind::kRun) CHECK(line(decision.rows) <= slack);
    }
  }
}

TEST(a_head_in_the_way_of_a_backlog_is_dropped) {
  DeadlineController controller;
  teach(controller);
  CHECK_EQ(controller.decide(waiting(100, 2 * kMillisecond)).kind, Kind::kDrop);
}

TEST(a_head_is_not_dropped_when_two_batches_serve_everybody) {
  DeadlineController controller;
  teach(controller);
  Situation situation = waiting(2, line(1) + kMillisecond / 20);
  const Decision decision = controller.decide(situation);
  CHECK_EQ(decision.kind, Kind::kRun);
  CHECK_EQ(decision.rows, 1u);
}

TEST(an_urgent_head_is_not_sacrificed_to_rows_with_time) {
  DeadlineController controller;
  teach(controller);
  (void)controller.decide(waiting(1, kSlo));  // peers have 20 ms
  Situation situation = waiting(300, 6 * kMillisecond);
  situation.head_arrived_ns = situation.now_ns - kMillisecond;  // this one had 7
  const Decision decision = controller.decide(situation);
  CHECK_EQ(decision.kind, Kind::kRun);
  CHECK(line(decision.rows) <= 6 * kMillisecond);
}

TEST(the_batch_in_flight_counts) {
  DeadlineController controller;
  teach(controller);
  Situation situation = waiting(10, 5 * kMillisecond);
  CHECK_EQ(controller.decide(situation).kind, Kind::kRun);
  situation.free_at_ns = situation.now_ns + 4 * kMillisecond;
  CHECK_EQ(controller.decide(situation).kind, Kind::kDrop);
}

TEST(a_hopeless_head_is_probed_for_some_milliseconds_every_50_ms) {
  DeadlineController controller;
  teach(controller);
  int probes = 0;
  int spells = 0;
  Nanos last = 0;
  for (Nanos now = 10 * kMillisecond; now < kSecond; now += kMillisecond) {
    const Decision decision = controller.decide(waiting(1, kMillisecond / 2, now));
    CHECK(decision.kind != Kind::kWait);
    if (decision.kind != Kind::kRun) continue;
    CHECK_EQ(decision.rows, 1u);
    ++probes;
    if (now - last > kMillisecond) ++spells;
    last = now;
  }
  CHECK(spells >= 15 && spells <= 20);
  CHECK(probes <= 6 * spells);
}

TEST(a_closed_model_is_opened_by_its_probes) {
  DeadlineController controller;
  for (int i = 0; i < 100; ++i) controller.observe({1, 0, kSecond, false});  // all far too slow
  int probes = 0;
  Nanos now = kSecond;
  for (; controller.run_bound_ns(1) > kSlo && probes < 1000; now += kMillisecond) {
    if (controller.decide(waiting(1, kSlo, now)).kind != Kind::kRun) continue;
    controller.observe({1, now, now + kMillisecond, false});
    ++probes;
  }
  CHECK(probes <= 10);
}

TEST(batches_grow_carefully_when_nothing_is_known) {
  DeadlineController controller;
  for (const std::uint32_t expected : {1u, 4u}) {
    const Decision decision = controller.decide(waiting(1000, kSlo));
    CHECK_EQ(decision.kind, Kind::kRun);
    CHECK_EQ(decision.rows, expected);
    controller.observe({decision.rows, 0, line(decision.rows), false});
  }
  // Now there is a line to follow, but only where twice what it says would still fit.
  const Decision decision = controller.decide(waiting(100, kSlo));
  CHECK_EQ(decision.kind, Kind::kRun);
  CHECK(2 * controller.run_bound_ns(decision.rows) <= kSlo);
}

TEST(a_young_bound_is_questioned_by_a_row_that_can_make_it) {
  DeadlineController controller;
  controller.observe({1, 0, 4 * kMillisecond, false});
  // The head is lost by what one run has told. It is run only where nobody waits who can make it.
  Situation situation = waiting(5, kMillisecond);
  CHECK_EQ(controller.decide(situation).kind, Kind::kRun);
  situation.tail_deadline_ns = situation.head_deadline_ns;
  CHECK_EQ(controller.decide(situation).kind, Kind::kRun);
  situation.tail_deadline_ns = situation.now_ns + kSlo;
  CHECK_EQ(controller.decide(situation).kind, Kind::kDrop);
}

TEST(a_loaded_replica_pauses_for_a_burst_where_the_fixed_cost_eats_the_objective) {
  for (const Nanos fixed_ns : {kMillisecond, 6 * kMillisecond}) {
    DeadlineController controller;
    const auto takes = [&](std::uint32_t rows) { return fixed_ns + rows * kMillisecond / 10; };
    for (std::uint32_t i = 0; i < 200; ++i) {
      controller.observe({1 + i % 32, -takes(1 + i % 32), 0, false});
    }
    Situation situation = waiting(1, kSlo, kMillisecond);  // idle for a millisecond
    controller.observe({8, -takes(8), 0, false});
    const Decision decision = controller.decide(situation);
    if (fixed_ns == kMillisecond) {
      CHECK_EQ(decision.kind, Kind::kRun);
      continue;
    }
    CHECK_EQ(decision.kind, Kind::kWait);
    CHECK_NEAR(decision.until_ns, situation.now_ns + takes(1) / 20, takes(1) / 200);
    situation.now_ns = situation.free_at_ns = decision.until_ns;
    CHECK_EQ(controller.decide(situation).kind, Kind::kRun);
    // A lone caller who asks again and again is never kept waiting.
    controller.observe({1, -takes(1), 0, false});
    CHECK_EQ(controller.decide(waiting(1, kSlo, kMillisecond)).kind, Kind::kRun);
    // Nor is one who comes after a pause.
    controller.observe({8, -takes(8), 0, false});
    CHECK_EQ(controller.decide(waiting(1, kSlo, 2 * kSlo)).kind, Kind::kRun);
  }
}

TEST(rows_without_a_deadline_run_in_bounded_batches) {
  DeadlineController controller({.max_batch = 600});
  teach(controller);
  Situation situation = waiting(10'000, kSlo);
  situation.head_deadline_ns = kNever;
  const Decision decision = controller.decide(situation);
  CHECK_EQ(decision.kind, Kind::kRun);
  CHECK(decision.rows > 100);
  CHECK(line(decision.rows) <= 50 * kMillisecond);
}

TEST(the_users_limit_holds) {
  DeadlineController controller({.max_batch = 4});
  teach(controller);
  CHECK_EQ(controller.decide(waiting(100, kSlo)).rows, 4u);
  CHECK_EQ(controller.batch_limit(kSlo), 4u);
}

TEST(a_delay_waits_for_company_but_never_past_the_deadline) {
  DeadlineController controller({.delay_ns = 5 * kMillisecond});
  teach(controller);
  Situation situation = waiting(1, kSlo);
  Decision decision = controller.decide(situation);
  CHECK_EQ(decision.kind, Kind::kWait);
  CHECK_EQ(decision.until_ns, situation.head_arrived_ns + 5 * kMillisecond);
  situation.now_ns = situation.free_at_ns = decision.until_ns;
  CHECK_EQ(controller.decide(situation).kind, Kind::kRun);

  situation = waiting(1, kSlo);
  situation.head_deadline_ns = situation.now_ns + 4 * kMillisecond;
  situation.head_arrived_ns = situation.now_ns;
  decision = controller.decide(situation);
  CHECK_EQ(decision.kind, Kind::kWait);
  CHECK(decision.until_ns + line(2) < situation.head_deadline_ns);

  CHECK_EQ(controller.decide(waiting(100, kSlo)).kind, Kind::kRun);  // full enough
}

TEST(drain_is_the_time_of_the_batches_it_would_form) {
  DeadlineController controller;
  teach(controller);
  CHECK_NEAR(controller.drain_ns(50, kSlo), line(50), line(50) / 20);
  CHECK(controller.drain_ns(1000, kSlo) > 4 * kSlo);
  CHECK_EQ(controller.drain_ns(0, kSlo), 0);
}

TEST(nonsense_is_survived) {
  const Nanos times[] = {0,      1,          -1,      kSlo,
                         kNever, kNever - 1, -kNever, std::numeric_limits<Nanos>::min()};
  DeadlineController controller({.delay_ns = kMillisecond});
  for (int round = 0; round < 3; ++round) {
    for (const Nanos now : times) {
      for (const Nanos deadline : times) {
        for (const Nanos arrived : times) {
          for (const std::uint32_t rows : {0u, 1u, 0xFFFF'FFFFu}) {
            Situation situation{now, arrived, deadline, arrived, rows, rows};
            const Decision decision = controller.decide(situation);
            if (decision.kind == Kind::kRun) CHECK(decision.rows >= 1);
            controller.observe({rows, arrived, deadline, false});
            (void)controller.drain_ns(rows, deadline);
            (void)controller.batch_limit(deadline);
          }
        }
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
