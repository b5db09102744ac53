// Tells the reaper that some deployment's alarm of drift went up, so that somebody logs it.
//
// Thread safety: all of it.
#pragma once

#include <atomic>

#include "queue/mailbox.h"

namespace clipper {

class DriftBell {
 public:
  /// `box`: where the reaper sleeps.
  explicit DriftBell(Mailbox& box) noexcept : box_(box) {}

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
