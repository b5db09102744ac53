// Clipper's second strategy: the largest batch whose latency, by a line below which 99 of 100
// batches lie, keeps the objective: (SLO - beta) / alpha. State per replica. Source: Crankshaw et
// al., "Clipper: A Low-Latency Online Prediction Serving System", NSDI 2017, section 4.3.2.
//
// A line that small batches drew says little about large ones, so a batch is never more than twice
// the largest that the line has seen. A run far over the bound that the latency model gives is
// taken for a preemption and kept from the line: the one batch of its size, it would bend the line
// to itself, stop growth, and so stay the only one. If it was a drift, the latency model finds out
// within a few runs, and those that follow count.
//
// Thread safety: as Controller; the size is a relaxed atomic so that bounds can be read anywhere.
// Invariants: 1 <= batch size <= max_batch.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "batching/controller.h"
#include "batching/latency_model.h"
#include "batching/quantile_line.h"

namespace clipper {

struct QuantileOptions {
  Nanos slo_ns = 0;  ///< 0: the objective of the rows that come
  std::uint32_t max_batch = 65'536;
};

class QuantileController final : public Controller {
 public:
  explicit QuantileController(QuantileOptions options = {},
                              std::shared_ptr<LatencyModel> known = nullptr);

  [[nodiscard]] Decision decide(const Situation& situation) noexcept override;
  [[nodiscard]] Decision foresee(const Situation& situation) const noexcept override;
  void observe(const Run& run) noexcept override;
  [[nodiscard]] Nanos run_bound_ns(std::uint32_t rows) const noexcept override;
  [[nodiscard]] Nanos drain_ns(std::uint32_t rows, Nanos slo_ns) const noexcept override;
  [[nodiscard]] std::uint32_t batch_limit(Nanos slo_ns) const noexcept override;
  [[nodiscard]] bool is_warm() const noexcept override;

 private:
  [[nodiscard]] Nanos slo_of(const Situation& situation) const noexcept;
  [[nodiscard]] std::uint32_t size_for(Nanos slo_ns) const noexcept;
  void choose_size() noexcept { size_.store(size_for(slo_ns_), std::memory_order_relaxed); }
  [[nodiscard]] std::uint32_t size() const noexcept {
    return size_.load(std::memory_order_relaxed);
  }

  const std::uint32_t max_batch_;
  const Nanos fixed_slo_ns_;
  Nanos slo_ns_;  // of the rows decided on last
  std::atomic<std::uint32_t> size_{1};
  QuantileLine line_;
};

}  // namespace clipper
