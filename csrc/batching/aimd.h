// Clipper's adaptive batching: the size grows by 2 while full batches keep the objective with 10 %
// to spare, and shrinks by a tenth when one breaks it. State per replica. Source: Crankshaw et al.,
// "Clipper: A Low-Latency Online Prediction Serving System", NSDI 2017, section 4.3.1.
//
// It judges the run alone, as published: time spent in the queue is not its concern. One slow run
// costs a tenth of the size and no more. Where it takes another's place it starts from the size
// that is known to keep the objective, not from 1.
//
// Thread safety: as Controller; the size is a relaxed atomic so that bounds can be read anywhere.
// Invariants: 1 <= batch size <= max_batch.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "batching/batches.h"
#include "batching/controller.h"
#include "batching/latency_model.h"

namespace clipper {

struct AimdOptions {
  Nanos slo_ns = 0;  ///< 0: the objective of the rows that come
  std::uint32_t max_batch = 65'536;
};

class AimdController final : public Controller {
 public:
  explicit AimdController(AimdOptions options = {}, std::shared_ptr<LatencyModel> known = nullptr)
      : Controller(std::move(known)),
        max_batch_(std::max(options.max_batch, 1U)),
        fixed_slo_ns_(std::max<Nanos>(options.slo_ns, 0)),
        slo_ns_(fixed_slo_ns_ > 0 ? fixed_slo_ns_ : kNever) {
    if (takes_over_) start_from_known();
  }

  [[nodiscard]] Decision decide(const Situation& situation) noexcept override {
    slo_ns_ = fixed_slo_ns_ > 0 ? fixed_slo_ns_ : objective_ns(situation);
    if (is_new_) {
      is_new_ = false;
      if (takes_over_) start_from_known();
    }
    return run_rows(std::min(situation.waiting_rows, size()));
  }
  [[nodiscard]] Decision foresee(const Situation& situation) const noexcept override {
    const bool starts_from_known = is_new_ && takes_over_;
    const Nanos slo_ns = fixed_slo_ns_ > 0 ? fixed_slo_ns_ : objective_ns(situation);
    return run_rows(
        std::min(situation.waiting_rows, starts_from_known ? known_size(slo_ns) : size()));
  }

  void observe(const Run& run) noexcept override {
    learn_from(run, latency_);
    if (!run.failed && run.rows > 0) adapt(run.rows, time_between(run.start_ns, run.end_ns));
  }

  [[nodiscard]] Nanos run_bound_ns(std::uint32_t rows) const noexcept override {
    return latency_.bound_ns(rows);
  }

  [[nodiscard]] Nanos drain_ns(std::uint32_t rows, Nanos /*slo_ns*/) const noexcept override {
    return drain_in_batches(latency_, rows, size());
  }

  [[nodiscard]] std::uint32_t batch_limit(Nanos /*slo_ns*/) const noexcept override {
    return size();
  }

  [[nodiscard]] bool is_warm() const noexcept override { return latency_.is_warm(); }

 private:
  static constexpr std::uint32_t kIncrease = 2;
  static constexpr Nanos kBestEffortRun = 50 * kMillisecond;  // the objective of rows without one

  [[nodiscard]] std::uint32_t size() const noexcept {
    return size_.load(std::memory_order_relaxed);
  }

  [[nodiscard]] static Nanos objective_of_runs_ns(Nanos slo_ns) noexcept {
    return slo_ns == kNever ? kBestEffortRun : slo_ns;
  }
  [[nodiscard]] std::uint32_t known_size(Nanos slo_ns) const noexcept {
    return std::min(rows_known_within(latency_, objective_of_runs_ns(slo_ns)), max_batch_);
  }
  void start_from_known() noexcept { size_.store(known_size(slo_ns_), std::memory_order_relaxed); }
  void adapt(std::uint32_t rows, Nanos took_ns) noexcept {
    const Nanos slo_ns = objective_of_runs_ns(slo_ns_);
    const std::uint32_t now = size();
    std::uint32_t next = now;
    if (took_ns > slo_ns) {
      next = std::max(now - std::max(now / 10, 1U), 1U);
    } else if (took_ns < slo_ns - slo_ns / 10 && rows >= now) {
      next = std::min(now + kIncrease, max_batch_);
    }
    size_.store(next, std::memory_order_relaxed);
  }

  const std::uint32_t max_batch_;
  const Nanos fixed_slo_ns_;
  Nanos slo_ns_;  // of the rows decided on last
  std::atomic<std::uint32_t> size_{1};
  bool is_new_ = true;  // has decided nothing yet
};

}  // namespace clipper
