// An application of a few made-up models, and a policy that learns nothing but how often it was
// told what: whatever feedback is lost or taken twice shows in its sums.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "batching/fixed.h"
#include "check.h"
#include "serving/engine.h"

namespace clipper::testing {

/// Asks all models, or, given a period, the models in turn with the propensity 1 / models. The
/// first that answers wins. State: of each model how often, and the losses over the propensities.
class Counting final : public Policy {
 public:
  explicit Counting(bool in_turn = false) : in_turn_(in_turn) {}

  [[nodiscard]] std::size_t state_words(std::uint16_t models) const noexcept override {
    return 2u * models;
  }
  [[nodiscard]] std::size_t select(const SelectionInput& input, PolicyState /*state*/,
                                   std::span<Choice> chosen) const noexcept override {
    if (in_turn_) {
      const auto next = turn_.fetch_add(1, std::memory_order_relaxed);
      chosen[0] = {static_cast<std::uint16_t>(next % input.models),
                   1.0F / static_cast<float>(input.models)};
      return 1;
    }
    for (std::uint16_t i = 0; i < input.models; ++i) chosen[i].model = i;
    return input.models;
  }
  [[nodiscard]] Combined combine(std::span<const Answer> answers, PolicyState /*state*/,
                                 const OutputLayout& /*layout*/,
                                 std::byte* /*output*/) const noexcept override {
    for (std::size_t i = 0; i < answers.size(); ++i) {
      if (answers[i].output != nullptr) return {true, i, 1.0F};
    }
    return {};
  }
  void observe(std::span<const Observation> observations,
               PolicyState state) const noexcept override {
    for (const Observation& seen : observations) {
      state[2u * seen.model].fetch_add(1.0, std::memory_order_relaxed);
      state[2u * seen.model + 1].fetch_add(static_cast<double>(seen.loss / seen.propensity),
                                           std::memory_order_relaxed);
    }
  }

 private:
  const bool in_turn_;
  mutable std::atomic<std::uint32_t> turn_{0};
};

inline const RowSpec kNumber{{DTypeCode::kInt, 64}, {}};

/// Model k answers the number that it is given plus k / 2: each answer is that of two models.
struct FeedbackBench {
  FeedbackBench(const Clock& clock, std::uint16_t models, const JoinRecords::Options& options = {},
                bool in_turn = false)
      : engine(clock, 1, 500 * kMicrosecond, options) {
    for (std::uint16_t k = 0; k < models; ++k) {
      linked.push_back(&engine.add_model(std::string("m").append(std::to_string(k))));
      deploy(k);
    }
    application = &add_application("counted", in_turn);
  }

  Application& add_application(const char* name, bool in_turn = false,
                               float min_confidence = 0.0F) {
    Application& made = engine.add_application(name, linked, std::make_unique<Counting>(in_turn),
                                               kNever, min_confidence);
    made.loss = Loss(LossKind::kZeroOne, 1.0, kNumber);
    return made;
  }
  Deployment& deploy(std::uint16_t model) {
    DeploymentOptions options;
    options.input = kNumber;
    options.output = kNumber;
    options.row_budget_bytes = std::size_t{1} << 20;
    options.max_batch = 64;
    Deployment& made = engine.add_deployment(options);
    made.add_replica(std::make_unique<FixedController>(64));
    linked[model]->set_current(&made);
    return made;
  }

  Query* submit(std::span<const std::int64_t> rows, Asking asking = {},
                Application* whose = nullptr) {
    asking.attended = true;
    Refusal refusal{};
    Query* query = engine.submit(whose != nullptr ? *whose : *application,
                                 reinterpret_cast<const std::byte*>(rows.data()),
                                 static_cast<std::uint32_t>(rows.size()), asking, refusal);
    CHECK(query != nullptr);
    return query;
  }
  /// Runs what waits at one model.
  void run(std::uint16_t model) {
    Deployment* deployment = linked[model]->current();
    Nanos retry_at_ns = kNever;
    Batch* batch = engine.drive(*deployment->replicas()[0], retry_at_ns);
    if (batch == nullptr) return;
    std::vector<std::int64_t> outputs(batch->rows);
    const auto* inputs = reinterpret_cast<const std::int64_t*>(batch->column(0));
    for (std::uint32_t i = 0; i < batch->rows; ++i) outputs[i] = inputs[i] + model / 2;
    engine.complete(*batch, reinterpret_cast<const std::byte*>(outputs.data()));
    engine.stop_driving(*deployment->replicas()[0]);
  }
  std::uint64_t collect(Query* query) {
    Outcome outcome;
    engine.collect(*query, 0, outcome);
    engine.release(*query);
    return outcome.ticket;
  }
  /// Asks and answers; returns the ticket.
  std::uint64_t predict(std::span<const std::int64_t> rows, const Asking& asking = {},
                        Application* whose = nullptr) {
    Query* query = submit(rows, asking, whose);
    while (!query->is_done()) {
      for (std::uint16_t k = 0; k < linked.size(); ++k) run(k);
    }
    return collect(query);
  }
  std::uint64_t predict(std::int64_t number) { return predict(std::span(&number, 1)); }

  FeedbackStatus label(std::uint64_t ticket, std::int64_t label, std::uint32_t row = 0,
                       Application* whose = nullptr) {
    const ColumnRows rows{reinterpret_cast<const std::byte*>(&label)};
    Said said;
    said.labels.rows = &rows;
    return take({ticket, row}, said, whose);
  }
  FeedbackStatus loss(std::uint64_t ticket, float loss, std::uint32_t row = 0) {
    Said said;
    said.losses = &loss;
    return take({ticket, row}, said);
  }
  FeedbackStatus take(AnsweredRow row, const Said& said, Application* whose = nullptr) {
    FeedbackStatus status{};
    engine.feedback().take(whose != nullptr ? *whose : *application, std::span(&row, 1), said,
                           &status);
    return status;
  }
  double times(std::uint16_t model) { return application->contexts->own()[2u * model].load(); }
  double losses(std::uint16_t model) { return application->contexts->own()[2u * model + 1].load(); }
  std::uint64_t counted(FeedbackStatus status) {
    return application->feedback.rows_by_status[static_cast<std::size_t>(status)].load();
  }

  Engine engine;
  std::vector<Model*> linked;
  Application* application = nullptr;
};

}  // namespace clipper::testing
