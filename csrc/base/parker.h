// Sleeping until a word changes or a deadline comes: the futex of Linux, on the clock of clock.h.
//
// std::atomic::wait has no deadline, and condition variables need a mutex that wakers would contend
// for.
//
// Thread safety: all of it, from any thread of one process. The word must live while somebody is
// parked on it. A wake may come after it is gone: only its address is used, and never read.
//
// A waiter must look at the word again whatever it is told: wakes may be spurious. The usual loop:
//
//   while ((seen = word.load(std::memory_order_acquire)) == kPending) {
//     if (park_until(word, seen, deadline_ns) == ParkResult::kTimedOut) break;
//   }
//
// and on the other side: word.store(kDone, std::memory_order_release); wake_one(word);
#pragma once

#include <atomic>
#include <cstdint>

#include "base/clock.h"

namespace clipper {

enum class ParkResult : std::uint8_t {
  kWoken,        ///< woken, or the word was not as expected to begin with, or for no reason
  kTimedOut,     ///< the deadline came first
  kInterrupted,  ///< a signal handler ran: a Python thread gives its interpreter the chance to act
};

/// Sleeps while `word` is `expected`, at most until `deadline_ns` of CLOCK_MONOTONIC (kNever:
/// without end; a time already past: returns at once).
[[nodiscard]] ParkResult park_until(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                                    Nanos deadline_ns) noexcept;

/// Wakes one, or every, thread that is parked on `word` now. Change the word before.
void wake_one(const std::atomic<std::uint32_t>& word) noexcept;
void wake_all(const std::atomic<std::uint32_t>& word) noexcept;

}  // namespace clipper
