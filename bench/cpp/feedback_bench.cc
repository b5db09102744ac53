// Keeping an answered query for its feedback, and the feedback: a ring of bytes against a map of
// query numbers and a queue of them.
#include <cstring>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "batching/fixed.h"
#include "measure.h"
#include "serving/engine.h"

namespace {

using namespace clipper;

constexpr std::size_t kRecords = 100'000;  // kept at any time

class Sums final : public Policy {
 public:
  [[nodiscard]] std::size_t state_words(std::uint16_t models) const noexcept override {
    return models;
  }
  [[nodiscard]] std::size_t select(const SelectionInput& /*input*/, PolicyState /*state*/,
                                   std::span<Choice> chosen) const noexcept override {
    chosen[0] = {};
    return 1;
  }
  [[nodiscard]] Combined combine(std::span<const Answer> /*answers*/, PolicyState /*state*/,
                                 const OutputLayout& /*layout*/,
                                 std::byte* /*output*/) const noexcept override {
    return {true, 0, 1.0F};
  }
  void observe(std::span<const Observation> observations,
               PolicyState state) const noexcept override {
    for (const Observation& seen : observations) {
      state[seen.model].fetch_add(static_cast<double>(seen.loss), std::memory_order_relaxed);
    }
  }
};

/// One answered query of one row and one model, which may be kept as often as wanted.
struct Answered {
  Answered() {
    const RowSpec number{{DTypeCode::kInt, 64}, {}};
    DeploymentOptions options;
    options.input = options.output = number;
    options.row_budget_bytes = std::size_t{1} << 20;
    Deployment& deployment = engine.add_deployment(options);
    deployment.add_replica(std::make_unique<FixedController>(1));
    Model& model = engine.add_model("m");
    model.set_current(&deployment);
    application = &engine.add_application("a", {&model}, std::make_unique<Sums>(), kNever, 0.0F);
    application->loss = Loss(LossKind::kZeroOne, 1.0, number);
    const std::int64_t row = 7;
    Asking asking;
    asking.attended = true;
    Refusal refusal{};
    query =
        engine.submit(*application, reinterpret_cast<const std::byte*>(&row), 1, asking, refusal);
    Nanos retry_at_ns = kNever;
    Batch* batch = engine.drive(*deployment.replicas()[0], retry_at_ns);
    engine.complete(*batch, batch->data);
    engine.stop_driving(*deployment.replicas()[0]);
    engine.collect(*query, 0, outcome);
  }
  ~Answered() { engine.release(*query); }

  MonotonicClock clock;
  Engine engine{clock, 1, 500 * kMicrosecond, {kRecords * 128, kNever}};
  Application* application = nullptr;
  Query* query = nullptr;
  Outcome outcome;
};

/// What one would write first.
class MapOfRecords {
 public:
  struct Record {
    Application* application = nullptr;
    std::vector<std::uint16_t> models;
    std::vector<float> propensities;
    std::vector<std::byte> outputs;
    std::vector<std::byte> answer;
    bool taken = false;
  };

  std::uint64_t keep(Answered& answered) {
    Record record;
    record.application = answered.application;
    record.models.push_back(answered.query->first_ask.model_index());
    record.propensities.push_back(answered.query->first_ask.propensity());
    const std::byte* output = answered.outcome.outputs;
    record.outputs.assign(output, output + answered.outcome.layout->row_bytes());
    record.answer = record.outputs;
    const std::scoped_lock lock(mutex_);
    records_.emplace(++last_, std::move(record));
    order_.push_back(last_);
    if (order_.size() > kRecords) {
      records_.erase(order_.front());
      order_.pop_front();
    }
    return last_;
  }
  bool take(std::uint64_t number, std::int64_t label, Application& application) {
    const std::scoped_lock lock(mutex_);
    const auto found = records_.find(number);
    if (found == records_.end() || found->second.taken) return false;
    found->second.taken = true;
    std::int64_t output = 0;
    std::memcpy(&output, found->second.outputs.data(), sizeof(output));
    application.contexts->own()[0].fetch_add(output == label ? 0.0 : 1.0);
    return true;
  }

 private:
  std::mutex mutex_;
  std::uint64_t last_ = 0;
  std::unordered_map<std::uint64_t, Record> records_;
  std::deque<std::uint64_t> order_;
};

bool take(Answered& answered, std::uint64_t ticket, std::int64_t label) {
  const AnsweredRow row{ticket, 0};
  const ColumnRows labels{reinterpret_cast<const std::byte*>(&label)};
  Said said;
  said.labels.rows = &labels;
  FeedbackStatus status{};
  answered.engine.feedback().take(*answered.application, std::span(&row, 1), said, &status);
  return status == FeedbackStatus::kApplied;
}

}  // namespace

int main(int argc, char** argv) {
  bench::Bench bench(argc, argv);
  Answered answered;
  MapOfRecords map;
  JoinRecords& ring = answered.engine.feedback().records();
  bench.compare("an answered query is kept", 100'000,
                {{"map, queue, a vector each",
                  [&](std::uint64_t operations) {
                    for (std::uint64_t i = 0; i < operations; ++i) bench::keep(map.keep(answered));
                  }},
                 {"ring of bytes", [&](std::uint64_t operations) {
                    for (std::uint64_t i = 0; i < operations; ++i) {
                      bench::keep(ring.keep(*answered.query, answered.outcome, 0));
                    }
                  }}});
  bench.compare("it is kept, and gets its feedback", 100'000,
                {{"map, queue, a vector each",
                  [&](std::uint64_t operations) {
                    for (std::uint64_t i = 0; i < operations; ++i) {
                      bench::expect(map.take(map.keep(answered), 8, *answered.application),
                                    "feedback is taken");
                    }
                  }},
                 {"ring of bytes", [&](std::uint64_t operations) {
                    for (std::uint64_t i = 0; i < operations; ++i) {
                      const std::uint64_t ticket = ring.keep(*answered.query, answered.outcome, 0);
                      bench::expect(take(answered, ticket, 8), "feedback is taken");
                    }
                  }}});
  return 0;
}
