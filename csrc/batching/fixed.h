// Runs whatever waits, at most a fixed number of rows at a time. Knows no deadlines.
//
// Thread safety: as Controller.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>

#include "batching/batches.h"
#include "batching/controller.h"
#include "batching/latency_model.h"

namespace clipper {

class FixedController final : public Controller {
 public:
  explicit FixedController(std::uint32_t rows, std::shared_ptr<LatencyModel> known = nullptr)
      : Controller(std::move(known)), rows_(std::max(rows, 1U)) {}

  [[nodiscard]] Decision decide(const Situation& situation) noexcept override {
    return foresee(situation);
  }
  [[nodiscard]] Decision foresee(const Situation& situation) const noexcept override {
    return run_rows(std::min(situation.waiting_rows, rows_));
  }

  void observe(const Run& run) noexcept override { learn_from(run, latency_); }

  [[nodiscard]] Nanos run_bound_ns(std::uint32_t rows) const noexcept override {
    return latency_.bound_ns(rows);
  }

  [[nodiscard]] Nanos drain_ns(std::uint32_t rows, Nanos /*slo_ns*/) const noexcept override {
    return drain_in_batches(latency_, rows, rows_);
  }

  [[nodiscard]] std::uint32_t batch_limit(Nanos /*slo_ns*/) const noexcept override {
    return rows_;
  }

  [[nodiscard]] bool is_warm() const noexcept override { return latency_.is_warm(); }

 private:
  const std::uint32_t rows_;
};

}  // namespace clipper
