// Tells the reaper that something happened of which an operator should hear, so that somebody logs
// it: a model drifts, a canary was withdrawn.
//
// Thread safety: all of it.
#pragma once

#include <atomic>

#include "queue/mailbox.h"

namespace clipper {

class AlarmBell {
 public:
  /// `box`: where the reaper sleeps.
  explicit AlarmBell(Mailbox& box) noexcept : box_(box) {}

  void ring() noexcept {
    rung_.store(true, std::memory_order_release);
    box_.signal();  // after that: who wakes up sees it
  }
  [[nodiscard]] bool is_rung() const noexcept { return rung_.load(std::memory_order_acquire); }
  /// Whether it rang since this was last asked.
  [[nodiscard]] bool take() noexcept {
    return is_rung() && rung_.exchange(false, std::memory_order_acq_rel);
  }

 private:
  std::atomic<bool> rung_{false};
  Mailbox& box_;
};

}  // namespace clipper
