#include "base/parker.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

namespace clipper {
namespace {

static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t) &&
                  std::atomic<std::uint32_t>::is_always_lock_free,
              "the kernel must see the word itself");

/// What the C library wraps in nothing. Private futexes: the word is shared by threads only.
long futex(const std::atomic<std::uint32_t>& word, int operation, std::uint32_t value,
           const timespec* deadline) noexcept {
  return syscall(SYS_futex, &word, operation | FUTEX_PRIVATE_FLAG, value, deadline, nullptr,
                 FUTEX_BITSET_MATCH_ANY);
}

}  // namespace

ParkResult park_until(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                      Nanos deadline_ns) noexcept {
  // The bitset form takes an absolute time, and takes it from CLOCK_MONOTONIC.
  const Nanos at_ns = std::max<Nanos>(deadline_ns, 0);
  const timespec deadline{.tv_sec = at_ns / kSecond, .tv_nsec = at_ns % kSecond};
  const long result =
      futex(word, FUTEX_WAIT_BITSET, expected, deadline_ns == kNever ? nullptr : &deadline);
  if (result == 0) return ParkResult::kWoken;
  switch (errno) {
    case ETIMEDOUT:
      return ParkResult::kTimedOut;
    case EINTR:
      return ParkResult::kInterrupted;
    default:  // EAGAIN: the word had changed already
      return ParkResult::kWoken;
  }
}

void wake_one(const std::atomic<std::uint32_t>& word) noexcept {
  futex(word, FUTEX_WAKE, 1, nullptr);
}

void wake_all(const std::atomic<std::uint32_t>& word) noexcept {
  futex(word, FUTEX_WAKE, INT_MAX, nullptr);
}

}  // namespace clipper
