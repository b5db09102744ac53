// Shadows are compared with what was given, whichever comes first, and nothing is left behind.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "batching/fixed.h"
#include "check.h"
#include "serving/engine.h"

namespace {

using namespace clipper;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kQueries = 2'000;
#else
constexpr int kQueries = 20'000;
#endif
constexpr int kCallers = 4;

/// Two models of one number, each with a driver: one gives it back, its shadow rounds it down to an
/// even one, and so agrees on half of the numbers.
struct Scene {
  Scene() {
    old_model.set_current(&old_deployment);
    new_model.set_current(&new_deployment);
  }

  Deployment& deploy() {
    DeploymentOptions options;
    options.input = {{DTypeCode::kInt, 64}, {}};
    options.output = options.input;
    options.max_queue = 1 << 20;
    options.row_budget_bytes = std::size_t{64} << 20;
    options.max_batch = 64;
    Deployment& made = engine.add_deployment(options);
    made.add_replica(std::make_unique<FixedController>(64));
    return made;
  }
  /// One batch, if rows wait.
  bool drive(Deployment& deployment) {
    Replica& replica = *deployment.replicas()[0];
    Nanos retry_at_ns = kNever;
    Batch* batch = engine.drive(replica, retry_at_ns);
    if (batch == nullptr) return false;
    const auto* rows = reinterpret_cast<const std::int64_t*>(batch->data);
    std::vector<std::int64_t> outputs(rows, rows + batch->rows);
    if (&deployment == &new_deployment) {
      for (std::int64_t& number : outputs) number &= ~std::int64_t{1};
    }
    engine.complete(*batch, reinterpret_cast<const std::byte*>(outputs.data()));
    engine.stop_driving(replica);
    return true;
  }
  Query* ask(std::int64_t number) {
    Asking asking;
    asking.attended = true;
    Refusal refusal{};
    Query* query =
        engine.submit(application, reinterpret_cast<const std::byte*>(&number), 1, asking, refusal);
    CHECK(query != nullptr);
    return query;
  }
  void end(Query* query) {
    Outcome outcome;
    engine.collect(*query, 0, outcome);
    engine.release(*query);
  }
  [[nodiscard]] std::uint64_t compared() const { return shadow.compared.load(); }
  [[nodiscard]] std::uint64_t agreed() const { return shadow.agreed.load(); }
  /// Of the shadow's queries, as far as they were collected.
  [[nodiscard]] std::uint64_t answered() const { return shadow.asks.rows_by_cause[0].load(); }

  MonotonicClock clock;
  Engine engine{clock, 1};
  Model& old_model = engine.add_model("old");
  Model& new_model = engine.add_model("new");
  Deployment& old_deployment = deploy();
  Deployment& new_deployment = deploy();
  Application& application = engine.add_application("app", {&old_model}, nullptr, kNever, 0.0F);
  ShadowModel& shadow = engine.add_shadow(application, new_model, {{DTypeCode::kInt, 64}, {}});
};

TEST(compares_when_both_are_there_in_either_order) {
  Scene scene;
  for (const bool is_shadow_first : {false, true}) {
    const std::uint64_t before = scene.compared();
    for (const std::int64_t number : {6, 7}) {
      Query* query = scene.ask(number);
      CHECK(scene.drive(is_shadow_first ? scene.new_deployment : scene.old_deployment));
      if (!is_shadow_first) scene.end(query);
      scene.engine.collect_shadows();
      CHECK_EQ(scene.compared(), before + (number == 7 ? 1u : 0u));
      CHECK(scene.drive(is_shadow_first ? scene.old_deployment : scene.new_deployment));
      if (is_shadow_first) scene.end(query);
      scene.engine.collect_shadows();
    }
    CHECK_EQ(scene.compared(), before + 2);
    CHECK_EQ(scene.agreed(), before / 2 + 1);
  }
  CHECK_EQ(scene.engine.open_queries(), 0u);
  CHECK_EQ(scene.engine.queries().slots(), 2u);  // all were given back
}

TEST(compares_nothing_with_a_query_that_nobody_looked_at) {
  Scene scene;
  Query* query = scene.ask(6);
  CHECK(scene.drive(scene.new_deployment));
  scene.engine.collect_answers(*query);
  scene.engine.release(*query);
  scene.engine.collect_shadows();
  CHECK_EQ(scene.answered(), 1u);
  CHECK_EQ(scene.compared(), 0u);
  CHECK_EQ(scene.engine.open_queries(), 0u);
}

TEST(an_engine_ends_with_trials_that_never_came_together) {
  Scene scene;
  Query* waiting = scene.ask(6);
  Query* ended = scene.ask(7);
  CHECK(scene.drive(scene.old_deployment));
  scene.end(ended);
  scene.engine.close();
  scene.engine.collect_shadows();
  scene.end(waiting);
}

TEST(every_trial_is_settled_once_whatever_the_threads_do) {
  Scene scene;
  std::atomic<int> callers{kCallers};
  std::atomic<bool> is_over{false};
  std::vector<std::thread> threads;
  for (Deployment* deployment : {&scene.old_deployment, &scene.new_deployment}) {
    threads.emplace_back([&scene, &is_over, deployment] {
      while (!is_over.load()) {
        if (!scene.drive(*deployment)) std::this_thread::yield();
      }
    });
  }
  threads.emplace_back([&scene] { scene.engine.run_reaper(); });
  for (int caller = 0; caller < kCallers; ++caller) {
    threads.emplace_back([&scene, &callers] {
      for (std::int64_t i = 0; i < kQueries / kCallers; ++i) {
        Query* query = scene.ask(i);
        while (scene.engine.wait(*query, kNever) != WaitResult::kDone) {
        }
        scene.end(query);
      }
      callers.fetch_sub(1);
    });
  }
  while (callers.load() > 0 || scene.answered() < kQueries) std::this_thread::yield();
  while (scene.compared() < kQueries) std::this_thread::yield();
  is_over.store(true);
  scene.engine.close();
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(scene.compared(), static_cast<std::uint64_t>(kQueries));
  CHECK_EQ(scene.agreed(), static_cast<std::uint64_t>(kQueries) / 2);
  CHECK_EQ(scene.engine.open_queries(), 0u);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
