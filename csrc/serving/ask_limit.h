// How many of its models an application may ask now: fewer at once when they have too much to do,
// and one more at a time when that is over.
//
// What is asked now is felt a batch later. So a limit that followed the load both ways would swing:
// it falls at once, and then rises by one model in kRiseAfter objectives.
//
// Thread safety: all of it. Calls at the same moment may see each other's limit or the one before.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "base/clock.h"

namespace clipper {

class AskLimit {
 public:
  /// `wanted`: how many the load allows now, of at most `models`. Returns how many to ask.
  [[nodiscard]] std::uint16_t next(std::uint16_t wanted, std::uint16_t models, Nanos now_ns,
                                   Nanos slo_ns) noexcept {
    const std::uint16_t spared = spared_.load(std::memory_order_relaxed);
    const auto now_spared = static_cast<std::uint16_t>(models - std::min(wanted, models));
    if (spared == 0 && now_spared == 0) return models;  // the usual case: nothing is written
    if (now_spared >= spared) {
      spared_.store(now_spared, std::memory_order_relaxed);
      since_ns_.store(now_ns, std::memory_order_relaxed);
      return static_cast<std::uint16_t>(models - now_spared);
    }
    Nanos since_ns = since_ns_.load(std::memory_order_relaxed);
    if (now_ns - since_ns >= kRiseAfter * slo_ns &&
        since_ns_.compare_exchange_strong(since_ns, now_ns, std::memory_order_relaxed)) {
      spared_.store(static_cast<std::uint16_t>(spared - 1), std::memory_order_relaxed);
    }
    return static_cast<std::uint16_t>(models - std::min(spared, models));
  }

 private:
  static constexpr Nanos kRiseAfter = 10;

  std::atomic<std::uint16_t> spared_{0};  // models that are not asked
  std::atomic<Nanos> since_ns_{0};        // since when
};

}  // namespace clipper
