// An engine with one deployment, and a scripted worker in the place of a process.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "batching/fixed.h"
#include "check.h"
#include "isolation/worker_driver.h"
#include "isolation/worker_link.h"
#include "serving/engine.h"

namespace clipper::testing {

/// The worker's end of a link: it maps what it is given, as a process would.
class Peer {
 public:
  explicit Peer(const WorkerLink& link) : layout_(link.output_layout()), text_at_(link.text_at()) {
    const std::vector<int> fds = link.descriptors();
    posted_bell_ = fds[0];
    finished_bell_ = fds[1];
    const std::vector<std::uint64_t> sizes = link.segment_bytes();
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const bool is_ours = i == 0 || (i >= 3 && i < 3 + kLinkSlots);
      void* memory = mmap(nullptr, sizes[i], PROT_READ | (is_ours ? PROT_WRITE : 0), MAP_SHARED,
                          fds[i + 2], 0);
      CHECK(memory != MAP_FAILED);
      maps_.emplace_back(static_cast<std::byte*>(memory), sizes[i]);
    }
  }
  ~Peer() {
    for (const auto& [memory, bytes] : maps_) munmap(memory, bytes);
  }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  [[nodiscard]] ControlWords& control() { return *reinterpret_cast<ControlWords*>(maps_[0].first); }
  [[nodiscard]] SlotWords& slot(std::uint64_t batch) { return control().slot[batch % kLinkSlots]; }
  [[nodiscard]] std::byte* outputs(std::uint64_t batch) {
    return maps_[3 + batch % kLinkSlots].first;
  }
  [[nodiscard]] std::size_t output_bytes() const { return maps_[3].second; }
  [[nodiscard]] const std::byte* source(std::uint64_t batch) {
    const auto segment = static_cast<Segment>(slot(batch).segment);
    if (segment == Segment::kCopy) return maps_[3 + kLinkSlots + batch % kLinkSlots].first;
    return maps_[segment == Segment::kRows ? 1 : 2].first;
  }
  [[nodiscard]] std::uint32_t rows(std::uint64_t batch) { return slot(batch).rows; }
  template <typename Item>
  [[nodiscard]] const Item* input(std::uint64_t batch, std::size_t column = 0) {
    return reinterpret_cast<const Item*>(source(batch) + slot(batch).inputs[column].data_at);
  }
  [[nodiscard]] const std::int64_t* input_offsets(std::uint64_t batch, std::size_t column = 0) {
    return reinterpret_cast<const std::int64_t*>(source(batch) +
                                                 slot(batch).inputs[column].offsets_at);
  }
  template <typename Item>
  [[nodiscard]] Item* output(std::uint64_t batch, std::size_t column = 0) {
    return reinterpret_cast<Item*>(layout_.row(outputs(batch), column, 0));
  }
  [[nodiscard]] std::int64_t* output_offsets(std::uint64_t batch, std::size_t column = 0) {
    return layout_.offsets(outputs(batch), column);
  }

  [[nodiscard]] std::uint64_t posted() { return control().posted.load(); }
  void run(std::uint64_t batch) { control().running.store(batch); }
  void reply(std::uint64_t batch, ReplyStatus status, const std::string& text = "") {
    std::memcpy(outputs(batch) + text_at_, text.data(), text.size());
    slot(batch).reply_sequence.store(batch);
    slot(batch).status.store(static_cast<std::uint32_t>(status));
    slot(batch).reply_rows.store(rows(batch));
    slot(batch).text_bytes.store(text.size());
    finish(batch);
  }
  void finish(std::uint64_t batch) {
    control().finished.store(batch);
    ring();
  }
  void ring() {
    const std::uint64_t one = 1;
    CHECK_EQ(write(finished_bell_, &one, sizeof one), static_cast<ssize_t>(sizeof one));
  }
  /// Answers a batch of int64 rows with three times each row.
  void answer(std::uint64_t batch) {
    run(batch);
    for (std::uint32_t i = 0; i < rows(batch); ++i) {
      output<std::int64_t>(batch)[i] = 3 * input<std::int64_t>(batch)[i];
    }
    reply(batch, ReplyStatus::kOutputs);
  }

 private:
  const BlockLayout layout_;
  const std::size_t text_at_;
  int posted_bell_ = -1;
  int finished_bell_ = -1;
  std::vector<std::pair<std::byte*, std::size_t>> maps_;
};

/// An engine, an application of one model, and replicas that fixed batches are formed for.
struct Scene {
  explicit Scene(RowSpec input = RowSpec({DTypeCode::kInt, 64}, {}),
                 RowSpec output = RowSpec({DTypeCode::kInt, 64}, {}), int replicas = 1,
                 bool callers_carry = false) {
    DeploymentOptions options;
    options.input = std::move(input);
    options.output = std::move(output);
    options.row_budget_bytes = std::size_t{8} << 20;
    options.max_batch = 8;
    options.most_batch = 8;
    options.most_in_flight = kLinkSlots;
    options.caller_runs = false;
    options.callers_carry = callers_carry;
    deployment = &engine.add_deployment(options);
    for (int i = 0; i < replicas; ++i) {
      deployment->add_replica(std::make_unique<FixedController>(8));
      deployment->replicas().back()->make_bell();
    }
    Model& model = engine.add_model("m");
    model.set_current(deployment);
    application = &engine.add_application("m", {&model}, nullptr, kNever, 0.0F);
  }

  Query* ask(const std::vector<std::int64_t>& rows, Nanos budget_ns = kNever,
             bool will_lead = false) {
    Asking asking;
    asking.attended = true;
    asking.will_lead = will_lead;
    asking.budget_ns = budget_ns;
    Refusal refusal{};
    Query* query = engine.submit(*application, reinterpret_cast<const std::byte*>(rows.data()),
                                 static_cast<std::uint32_t>(rows.size()), asking, refusal);
    CHECK(query != nullptr);
    return query;
  }

  struct Answer {
    std::vector<std::int64_t> outputs;
    std::vector<Cause> causes;
    std::uint32_t error_id = 0;
  };
  Answer take(Query* query) {
    CHECK(query->is_done());
    Outcome outcome;
    engine.collect(*query, 0, outcome);
    Answer answer;
    answer.error_id = outcome.error_id;
    for (std::uint32_t i = 0; i < query->rows; ++i) {
      std::int64_t value = 0;
      std::memcpy(&value, outcome.outputs + i * sizeof value, sizeof value);
      answer.outputs.push_back(value);
      answer.causes.push_back(outcome.causes == nullptr ? outcome.cause : outcome.causes[i]);
    }
    engine.release(*query);
    return answer;
  }

  MonotonicClock clock;
  Engine engine{clock, 1};
  Deployment* deployment = nullptr;
  Application* application = nullptr;
};

}  // namespace clipper::testing
