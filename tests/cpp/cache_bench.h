// One model behind a prediction cache, driven by the test itself.
//
// Thread safety: the engine's.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "batching/fixed.h"
#include "check.h"
#include "serving/engine.h"

namespace clipper::testing {

inline std::int64_t answer_to(std::int64_t row) { return 3 * row + 1; }

struct Ended {
  Cause cause = Cause::kNone;  // of the first row
  std::vector<Cause> causes;
  std::vector<std::int64_t> outputs;
};

class CacheBench {
 public:
  explicit CacheBench(const Clock& clock, std::size_t replicas = 1, Nanos ttl_ns = kNever,
                      std::uint32_t max_queue = 512)
      : engine(clock, 1), deployment(deploy(replicas, ttl_ns, max_queue)) {
    model.set_current(&deployment);
  }

  Query* ask(const std::vector<std::int64_t>& rows, Nanos budget_ns = kNever,
             Priority priority = kApplicationsPriority, bool bypass_cache = false) {
    Asking asking;
    asking.attended = true;
    asking.budget_ns = budget_ns;
    asking.priority = priority;
    asking.bypass_cache = bypass_cache;
    Refusal refusal{};
    Query* query = engine.submit(application, reinterpret_cast<const std::byte*>(rows.data()),
                                 static_cast<std::uint32_t>(rows.size()), asking, refusal);
    CHECK(query != nullptr);
    return query;
  }
  /// nullptr: nothing to run.
  Batch* drive(std::size_t replica = 0) {
    Nanos retry_at_ns = kNever;
    return engine.drive(*deployment.replicas()[replica], retry_at_ns);
  }
  void complete(Batch& batch) {
    std::vector<std::int64_t> outputs(batch.rows);
    std::memcpy(outputs.data(), batch.data, batch.rows * sizeof(std::int64_t));
    for (std::int64_t& row : outputs) row = answer_to(row);
    evaluated += batch.rows;
    Replica& replica = *batch.replica;
    engine.complete(batch, reinterpret_cast<const std::byte*>(outputs.data()));
    engine.stop_driving(replica);
  }
  void fail(Batch& batch) {
    Replica& replica = *batch.replica;
    engine.fail(batch, Cause::kModelError, 7);
    engine.stop_driving(replica);
  }
  void run_all() {
    while (Batch* batch = drive()) complete(*batch);
  }
  /// Collects a query, whatever became of it.
  Ended end(Query* query) {
    Outcome outcome;
    engine.collect(*query, 0, outcome);
    Ended ended{outcome.cause, {}, {}};
    for (std::uint32_t row = 0; row < query->rows; ++row) {
      ended.causes.push_back(outcome.causes == nullptr ? outcome.cause : outcome.causes[row]);
      std::int64_t output = 0;
      std::memcpy(&output, outcome.outputs + row * sizeof output, sizeof output);
      ended.outputs.push_back(output);
    }
    engine.release(*query);
    return ended;
  }
  Cause cancel(Query* query) {
    engine.withdraw(*query, Cause::kCancelled);
    return end(query).cause;
  }
  /// The query is done, and each row has its own answer.
  void check_answered(Query* query, const std::vector<std::int64_t>& rows) {
    CHECK(query->is_done());
    const Ended ended = end(query);
    for (std::size_t row = 0; row < rows.size(); ++row) {
      CHECK_EQ(ended.causes[row], Cause::kNone);
      CHECK_EQ(ended.outputs[row], answer_to(rows[row]));
    }
  }
  [[nodiscard]] CacheStatistics statistics() { return deployment.cache()->statistics(); }
  /// Nothing is left of what was asked.
  void check_idle() {
    CHECK_EQ(deployment.outstanding(), 0);
    CHECK_EQ(deployment.waiting_rows(), 0U);
    CHECK_EQ(deployment.live_rows(), 0U);
    CHECK_EQ(statistics().flights, 0U);
  }
  /// Its batches take `run_ns`, and that is known.
  void teach(Nanos run_ns) {
    for (const auto& replica : deployment.replicas()) {
      for (int i = 0; i < 300; ++i) {
        for (const std::uint32_t rows : {1U, 2U, 4U, 8U}) {
          replica->controller().observe({rows, 0, run_ns, false});
        }
      }
    }
  }

  Engine engine;
  Model& model = engine.add_model("m");
  Deployment& deployment;
  Application& application = engine.add_application("m", {&model}, nullptr, kNever, 0.0F);
  std::uint64_t evaluated = 0;

 private:
  Deployment& deploy(std::size_t replicas, Nanos ttl_ns, std::uint32_t max_queue) {
    DeploymentOptions options;
    options.input = {{DTypeCode::kInt, 64}, {}};
    options.output = options.input;
    options.max_queue = max_queue;
    options.row_budget_bytes = std::size_t{1} << 20;
    options.max_batch = 64;
    options.cache.bytes = std::size_t{256} << 10;
    options.cache.ttl_ns = ttl_ns;
    Deployment& made = engine.add_deployment(options);
    for (std::size_t i = 0; i < replicas; ++i) {
      made.add_replica(std::make_unique<FixedController>(64));
    }
    return made;
  }
};

}  // namespace clipper::testing
