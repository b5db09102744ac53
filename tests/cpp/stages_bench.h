// An engine in manual time whose models are driven by the test itself, one batch at a time; and
// short ways to write plans.
//
// Thread safety: none needed.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "batching/fixed.h"
#include "check.h"
#include "serving/engine.h"

namespace clipper::testing {

using Numbers = std::vector<std::int64_t>;

inline RowSpec numbers(std::size_t columns = 1) {
  RowSpec spec;
  for (std::size_t c = 0; c < columns; ++c) {
    spec.columns.push_back({{DTypeCode::kInt, 64}, {}, false});
  }
  return spec;
}

/// A stage of numbers. `inputs`: the sources of each column.
inline StageSpec stage(std::uint16_t model, std::vector<std::vector<Source>> inputs,
                       std::vector<Condition> conditions = {}) {
  return {model, numbers(inputs.size()), numbers(), std::move(inputs), std::move(conditions)};
}

inline Source query_input(std::uint16_t column = 0) { return {Source::kQuery, column}; }

inline Condition when(std::uint16_t stage, Condition::Test test, long double threshold) {
  Condition condition;
  condition.stage = stage;
  condition.reading.tensor = numbers().columns[0];
  condition.test = test;
  condition.threshold = threshold;
  return condition;
}

class StagesBench {
 public:
  using Function = std::function<std::int64_t(const Numbers& columns)>;

  ManualClock clock;
  Engine engine{clock, 1};
  std::vector<Model*> models;
  std::vector<Deployment*> deployments;
  Application* application = nullptr;
  /// The rows of each batch that ran, by model.
  std::vector<std::vector<std::uint32_t>> batches;

  StagesBench() { clock.set(kSecond); }

  /// A model of numbers. `cache_bytes`: 0, or what its prediction cache may take.
  void deploy(Function function, std::size_t columns = 1, std::uint32_t max_batch = 64,
              std::size_t cache_bytes = 0) {
    DeploymentOptions options;
    options.input = numbers(columns);
    options.output = numbers();
    options.max_queue = 1024;
    options.row_budget_bytes = std::size_t{1} << 20;
    options.max_batch = max_batch;
    options.cache.bytes = cache_bytes;
    Deployment& made = engine.add_deployment(options);
    made.add_replica(std::make_unique<FixedController>(max_batch));
    models.push_back(&engine.add_model(std::to_string(models.size())));
    models.back()->set_current(&made);
    deployments.push_back(&made);
    functions_.push_back(std::move(function));
    batches.emplace_back();
  }

  void plan(std::vector<StageSpec> stages, std::vector<std::uint16_t> answers,
            bool answers_stand = false, std::size_t inputs = 1) {
    PlanSpec spec;
    spec.input = numbers(inputs);
    spec.stages = std::move(stages);
    spec.answers = std::move(answers);
    spec.answers_stand = answers_stand;
    application = &engine.add_application("app", models, nullptr, kNever, 0.0F, 0,
                                          ContextOptions::kDefaultBytes,
                                          std::make_unique<const Plan>(std::move(spec)));
  }

  /// Asks for rows, given column by column.
  Query* ask(std::vector<Numbers> columns, Nanos budget_ns = kNever, bool bypass_cache = false) {
    std::vector<ColumnRows> rows;
    for (const Numbers& column : columns) {
      rows.push_back({reinterpret_cast<const std::byte*>(column.data())});
    }
    Asking asking;
    asking.attended = true;
    asking.budget_ns = budget_ns;
    asking.bypass_cache = bypass_cache;
    Refusal refusal{};
    Query* query = engine.submit(*application, rows.data(),
                                 static_cast<std::uint32_t>(columns[0].size()), asking, refusal);
    CHECK(query != nullptr);
    return query;
  }
  Query* ask(Numbers rows, Nanos budget_ns = kNever, bool bypass_cache = false) {
    return ask(std::vector<Numbers>{std::move(rows)}, budget_ns, bypass_cache);
  }

  /// Claims a batch of a model; nullptr: nothing waits there.
  Batch* claim(std::size_t model) {
    Nanos retry_at_ns = kNever;
    return engine.drive(*deployments[model]->replicas()[0], retry_at_ns);
  }
  void complete(std::size_t model, Batch& batch) {
    Numbers outputs;
    for (std::uint32_t row = 0; row < batch.rows; ++row) {
      Numbers columns;
      for (std::size_t c = 0; c < deployments[model]->options().input.columns.size(); ++c) {
        std::int64_t number = 0;
        std::memcpy(&number, batch.column(c) + row * sizeof number, sizeof number);
        columns.push_back(number);
      }
      outputs.push_back(functions_[model](columns));
    }
    batches[model].push_back(batch.rows);
    engine.complete(batch, reinterpret_cast<const std::byte*>(outputs.data()));
    engine.stop_driving(*batch.replica);
  }
  void fail(Batch& batch) {
    engine.fail(batch, Cause::kModelError, 1);
    engine.stop_driving(*batch.replica);
  }
  /// Runs one batch of a model. False: nothing waits there.
  bool run(std::size_t model) {
    Batch* batch = claim(model);
    if (batch != nullptr) complete(model, *batch);
    return batch != nullptr;
  }
  void run_all() {
    for (bool has_run = true; has_run;) {
      has_run = false;
      for (std::size_t model = 0; model < models.size(); ++model) has_run = run(model) || has_run;
    }
  }

  [[nodiscard]] CacheStatistics cache_of(std::size_t model) {
    return deployments[model]->cache()->statistics();
  }
  /// Rows that a model has run.
  [[nodiscard]] std::uint32_t evaluated(std::size_t model) const {
    std::uint32_t rows = 0;
    for (const std::uint32_t batch : batches[model]) rows += batch;
    return rows;
  }

  struct Answer {
    Cause cause = Cause::kNone;
    std::vector<Cause> causes;
    Numbers outputs;
    std::vector<float> confidences;
    std::vector<Cause> stages;  // of the first row
    std::uint32_t error_id = 0;
  };
  Answer end(Query* query) {
    Outcome outcome;
    engine.collect(*query, 0, outcome);
    Answer answer;
    answer.cause = outcome.cause;
    answer.error_id = outcome.error_id;
    for (std::uint16_t i = 0; i < query->asks; ++i) {
      answer.stages.push_back(query->ask(i).cause(0));
    }
    for (std::uint32_t row = 0; row < query->rows; ++row) {
      answer.causes.push_back(outcome.causes == nullptr ? outcome.cause : outcome.causes[row]);
      answer.confidences.push_back(outcome.confidences == nullptr ? outcome.confidence
                                                                  : outcome.confidences[row]);
      std::int64_t output = 0;
      if (answer.causes.back() == Cause::kNone) {
        std::memcpy(&output, outcome.outputs + row * sizeof output, sizeof output);
      }
      answer.outputs.push_back(output);
    }
    engine.release(*query);
    return answer;
  }

  /// The output of the only row. REQUIRES: it was answered.
  std::int64_t output_of(Query* query) {
    const Answer answer = end(query);
    CHECK_EQ(answer.cause, Cause::kNone);
    return answer.outputs[0];
  }

  /// Every row that entered has left, and no memory is held.
  void check_nothing_is_left() {
    for (std::size_t model = 0; model < models.size(); ++model) {
      CHECK(!run(model));  // buries the dead
      CHECK_EQ(deployments[model]->outstanding(), 0);
      CHECK_EQ(deployments[model]->live_rows(), 0u);
      if (deployments[model]->cache() != nullptr) CHECK_EQ(cache_of(model).flights, 0u);
    }
    CHECK_EQ(engine.open_queries(), 0u);
  }

 private:
  std::vector<Function> functions_;
};

}  // namespace clipper::testing
