// The one source of time. Everything that asks "when" is handed a Clock, so that the whole core
// also runs in simulated time.
//
// Thread safety: now_ns() may be called from any thread.
#pragma once

#include <time.h>

#include <atomic>
#include <cstdint>
#include <limits>

namespace clipper {

/// Nanoseconds on a monotonic axis whose origin means nothing; differences do.
using Nanos = std::int64_t;

/// "No deadline": later than every time a clock will ever show.
inline constexpr Nanos kNever = std::numeric_limits<Nanos>::max();

inline constexpr Nanos kMicrosecond = 1'000;
inline constexpr Nanos kMillisecond = 1'000'000;
inline constexpr Nanos kSecond = 1'000'000'000;

class Clock {
 public:
  virtual ~Clock() = default;
  [[nodiscard]] virtual Nanos now_ns() const noexcept = 0;
};

/// CLOCK_MONOTONIC: setting the wall clock changes nothing.
class MonotonicClock final : public Clock {
 public:
  [[nodiscard]] Nanos now_ns() const noexcept override {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<Nanos>(now.tv_sec) * kSecond + now.tv_nsec;
  }
};

/// Stands still until it is moved. For simulation and tests.
class ManualClock final : public Clock {
 public:
  [[nodiscard]] Nanos now_ns() const noexcept override {
    return now_ns_.load(std::memory_order_relaxed);
  }
  void set(Nanos now_ns) noexcept { now_ns_.store(now_ns, std::memory_order_relaxed); }
  void advance(Nanos by_ns) noexcept { now_ns_.fetch_add(by_ns, std::memory_order_relaxed); }

 private:
  std::atomic<Nanos> now_ns_{0};
};

/// `at_ns + by_ns` that stays at kNever instead of wrapping round.
[[nodiscard]] constexpr Nanos saturating_add(Nanos at_ns, Nanos by_ns) noexcept {
  return at_ns > kNever - by_ns ? kNever : at_ns + by_ns;
}

}  // namespace clipper
