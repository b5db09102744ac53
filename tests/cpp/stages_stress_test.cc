// Queries that go through stages end exactly once, each row with an answer that it may have,
// whatever threads do: drivers, leaders, withdrawals, deadlines, failures and version switches at
// once.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "base/random.h"
#include "check.h"
#include "stages_bench.h"

namespace {

using namespace clipper;
using namespace clipper::testing;
using Test = Condition::Test;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kQueries = 3'000;
#else
constexpr int kQueries = 20'000;
#endif
constexpr std::int64_t kFarBelow = -(std::int64_t{1} << 40);

std::int64_t answer_of(std::size_t model, const Numbers& in) {
  switch (model) {
    case 0:
      return in[0] + 1;
    case 1:
      return 2 * in[0];
    case 2:
      return in[0] - 7;
    default:
      return in[0] ^ (in[1] + in[2]);
  }
}

/// in -> 0, on while the answer is negative -> 1, on while it is far below -> 2.
PlanSpec cascade() {
  PlanSpec plan;
  plan.input = numbers();
  plan.stages = {stage(0, {{query_input()}}),
                 stage(1, {{query_input()}}, {when(0, Test::kNotAtLeast, 0)}),
                 stage(2, {{query_input()}}, {when(1, Test::kNotAtLeast, kFarBelow)})};
  plan.answers = {2, 1, 0};
  plan.answers_stand = true;
  return plan;
}

bool is_answer_of_cascade(std::int64_t in, std::int64_t out) {
  const std::int64_t first = in + 1;
  if (first >= 0) return out == first;
  return out == first || out == 2 * in || (2 * in < kFarBelow && out == in - 7);
}

/// 0 chooses between 1 and 2, and 3 joins the one that has run, 0 and the input.
PlanSpec branches() {
  PlanSpec plan;
  plan.input = numbers();
  plan.stages = {stage(0, {{query_input()}}), stage(1, {{{0, 0}}}, {when(0, Test::kMore, 0)}),
                 stage(2, {{query_input()}}, {when(0, Test::kAtMost, 0)}),
                 stage(3, {{{1, 0}, {2, 0}}, {{0, 0}}, {query_input()}})};
  plan.answers = {3};
  return plan;
}

bool is_answer_of_branches(std::int64_t in, std::int64_t out) {
  const std::int64_t first = in + 1;
  return out == ((first > 0 ? 2 * first : in - 7) ^ (first + in));
}

struct Stress {
  MonotonicClock clock;
  Engine engine{clock, 1};
  std::vector<Model*> models;
  std::vector<std::vector<Deployment*>> deployments;
  std::atomic<bool> stop{false};
  const bool has_caches;

  /// has_caches: the second version of each model has one, and rows are often the same.
  explicit Stress(bool with_caches) : has_caches(with_caches) {
    for (std::size_t model = 0; model < 4; ++model) {
      models.push_back(&engine.add_model(std::to_string(model)));
      deployments.emplace_back();
      for (int version = 0; version < 2; ++version) deploy(model);
      models[model]->set_current(deployments[model][0]);
    }
  }

  void deploy(std::size_t model) {
    DeploymentOptions options;
    options.input = numbers(model == 3 ? 3 : 1);
    options.output = numbers();
    options.max_queue = 512;
    options.row_budget_bytes = std::size_t{1} << 20;
    options.max_batch = 16;
    if (has_caches && !deployments[model].empty()) options.cache.bytes = std::size_t{64} << 10;
    Deployment& made = engine.add_deployment(options);
    made.add_replica(std::make_unique<FixedController>(16));
    made.owner = reinterpret_cast<void*>(model);
    deployments[model].push_back(&made);
  }

  Application& add_application(PlanSpec plan) {
    std::vector<Model*> linked(models.begin(),
                               models.begin() + static_cast<std::ptrdiff_t>(plan.stages.size()));
    return engine.add_application("app", linked, nullptr, kNever, 0.0F, 0,
                                  ContextOptions::kDefaultBytes,
                                  std::make_unique<const Plan>(std::move(plan)));
  }

  void run(Batch& batch, Random& random) {
    const auto model = reinterpret_cast<std::size_t>(batch.replica->deployment().owner);
    Numbers outputs(batch.rows);
    for (std::uint32_t row = 0; row < batch.rows; ++row) {
      Numbers in(model == 3 ? 3 : 1);
      for (std::size_t c = 0; c < in.size(); ++c) {
        std::memcpy(&in[c], batch.column(c) + row * sizeof in[c], sizeof in[c]);
      }
      outputs[row] = answer_of(model, in);
    }
    Replica& replica = *batch.replica;
    if (random.below(50) == 0) {
      engine.fail(batch, Cause::kModelError, 1);
    } else {
      engine.complete(batch, reinterpret_cast<const std::byte*>(outputs.data()));
    }
    engine.stop_driving(replica);
  }

  void drive(Replica& replica, std::uint64_t seed) {
    Random random(seed);
    while (replica.wait_for_work(clock, kNever, nullptr)) {
      Nanos retry_at_ns = kNever;
      if (Batch* batch = engine.drive(replica, retry_at_ns)) run(*batch, random);
    }
  }

  [[nodiscard]] std::int64_t draw_row(Random& random) const {
    if (!has_caches) return static_cast<std::int64_t>(random() >> 20) - (std::int64_t{1} << 43);
    // New ones come up all the time, and are asked for by all askers while they are new.
    const auto near = static_cast<std::int64_t>(clock.now_ns() / kMillisecond % 5000);
    const auto row = near * 8 + static_cast<std::int64_t>(random.below(8));
    return random.below(2) == 0 ? row : -row * (std::int64_t{1} << 26);
  }

  /// Waits, leads or withdraws at random, and checks each answer. Returns the rows asked for.
  std::uint64_t ask(Application& application, bool (*is_right)(std::int64_t, std::int64_t),
                    std::uint64_t seed) {
    Random random(seed);
    std::uint64_t asked = 0;
    for (int i = 0; i < kQueries; ++i) {
      Numbers rows(1 + random.below(4));
      for (std::int64_t& row : rows) {
        row = draw_row(random);
      }
      Asking asking;
      asking.attended = random.below(2) == 0;
      asking.will_lead = random.below(3) == 0;
      asking.may_lead = random.below(3) == 0;
      asking.bypass_cache = random.below(8) == 0;
      asking.budget_ns =
          random.below(3) == 0 ? static_cast<Nanos>(random.below(kMillisecond)) + 1 : 20 * kSecond;
      Refusal refusal{};
      const auto count = static_cast<std::uint32_t>(rows.size());
      Query* query = engine.submit(application, reinterpret_cast<const std::byte*>(rows.data()),
                                   count, asking, refusal);
      CHECK(query != nullptr);
      asked += count;
      see_through(*query, asking, random);
      Outcome outcome;
      engine.collect(*query, 0, outcome);
      for (std::uint32_t row = 0; row < count; ++row) {
        const Cause cause = outcome.causes == nullptr ? outcome.cause : outcome.causes[row];
        CHECK(cause != kSkipped && cause != kPending);
        if (cause != Cause::kNone) continue;
        std::int64_t answered = 0;
        std::memcpy(&answered, outcome.outputs + row * sizeof answered, sizeof answered);
        CHECK(is_right(rows[row], answered));
      }
      engine.release(*query);
    }
    return asked;
  }

  void see_through(Query& query, const Asking& asking, Random& random) {
    if (asking.will_lead) {
      Batch* batch = engine.lead(query, clock.now_ns(), kSecond);
      while (batch != nullptr) {
        run(*batch, random);
        batch = engine.lead_next_stage(query, clock.now_ns(), kSecond);
      }
    }
    if (random.below(8) == 0) {
      for (std::uint64_t spins = random.below(2000); spins > 0; --spins) __builtin_ia32_pause();
      engine.withdraw(query, Cause::kCancelled);
    } else if (engine.wait(query, query.answer_by_ns) == WaitResult::kTimedOut) {
      engine.withdraw(query, Cause::kDeadline);
      // Nothing but the short deadlines may be missed.
      CHECK(asking.budget_ns <= kMillisecond);
    }
  }
};

void run_stress(Stress& stress) {
  Application& cascading = stress.add_application(cascade());
  Application& branching = stress.add_application(branches());
  std::vector<std::thread> helpers;
  for (auto& versions : stress.deployments) {
    for (Deployment* deployment : versions) {
      helpers.emplace_back([&stress, deployment, seed = 100 + helpers.size()] {
        stress.drive(*deployment->replicas()[0], seed);
      });
    }
  }
  helpers.emplace_back([&] {
    while (!stress.stop) stress.engine.wait_for_reaping(stress.engine.reap());
  });
  helpers.emplace_back([&] {
    for (std::size_t turn = 1; !stress.stop; ++turn) {
      const std::size_t model = turn % 4;
      stress.models[model]->set_current(stress.deployments[model][turn / 4 % 2]);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  std::atomic<std::uint64_t> asked{0};
  std::vector<std::thread> askers;
  for (std::uint64_t seed = 1; seed <= 2; ++seed) {
    askers.emplace_back([&, seed] { asked += stress.ask(cascading, is_answer_of_cascade, seed); });
    askers.emplace_back(
        [&, seed] { asked += stress.ask(branching, is_answer_of_branches, 50 + seed); });
  }
  for (std::thread& asker : askers) asker.join();
  stress.stop = true;
  stress.engine.wake_reaper();
  for (auto& versions : stress.deployments) {
    for (Deployment* deployment : versions) {
      while (deployment->outstanding() > 0) {
        deployment->wake_a_driver();
        std::this_thread::yield();
      }
      deployment->replicas()[0]->stop();
    }
  }
  for (std::thread& helper : helpers) helper.join();
  std::uint64_t counted = 0;
  for (const Application* application : {&cascading, &branching}) {
    for (const auto& rows : application->rows_by_cause) counted += rows;
    CHECK(application->rows_by_cause[0] > 0);
  }
  CHECK_EQ(counted, asked.load());
  CHECK_EQ(stress.engine.open_queries(), 0u);
  for (auto& versions : stress.deployments) {
    for (Deployment* deployment : versions) CHECK_EQ(deployment->live_rows(), 0u);
  }
}

TEST(every_query_that_goes_through_stages_ends_exactly_once) {
  Stress stress(false);
  run_stress(stress);
}

TEST(every_query_ends_exactly_once_where_stages_have_caches) {
  Stress stress(true);
  run_stress(stress);
  for (const auto& versions : stress.deployments) {
    const CacheStatistics seen = versions[1]->cache()->statistics();
    CHECK(seen.hits > 0 && seen.joined > 0);
    CHECK_EQ(seen.flights, 0u);
  }
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
