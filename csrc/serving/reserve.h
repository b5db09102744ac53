// How long before a deadline a waiter must be woken to hold its answer in time: the 0.99 quantile
// of what waking and combining took lately, half a millisecond before anything is known, at most a
// quarter of the objective.
//
// The quantile is followed by stochastic approximation (Robbins and Monro, 1951): up by a step in
// 99 of 100 parts when a sample exceeds it, down by one part when it does not. Constant memory, one
// atomic.
//
// Thread safety: all of it. Concurrent samples may lose one another, which costs accuracy only.
#pragma once

#include <algorithm>
#include <atomic>

#include "base/clock.h"

namespace clipper {

class Reserve {
 public:
  explicit Reserve(Nanos start_ns = 500 * kMicrosecond) noexcept : quantile_ns_(start_ns) {}

  void observe(Nanos took_ns) noexcept {
    const Nanos quantile = quantile_ns_.load(std::memory_order_relaxed);
    // A step in proportion, so that it adapts at every scale; never so small that it sticks.
    const Nanos part = std::max<Nanos>(quantile / 400, 10);
    const Nanos next = took_ns > quantile ? quantile + 99 * part : quantile - part;
    quantile_ns_.store(std::clamp(next, kLeast, kMost), std::memory_order_relaxed);
  }

  [[nodiscard]] Nanos of(Nanos objective_ns) const noexcept {
    if (objective_ns == kNever) return 0;
    return std::min(quantile_ns_.load(std::memory_order_relaxed), objective_ns / 4);
  }

 private:
  static constexpr Nanos kLeast = 5 * kMicrosecond;
  static constexpr Nanos kMost = 5 * kMillisecond;
  std::atomic<Nanos> quantile_ns_;
};

}  // namespace clipper
