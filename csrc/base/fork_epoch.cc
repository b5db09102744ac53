#include "base/fork_epoch.h"

#include <pthread.h>

#include <atomic>

namespace clipper {
namespace {

std::atomic<int> forks{0};

}  // namespace

int fork_epoch() noexcept {
  static const int registered =
      pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
  static_cast<void>(registered);
  return forks.load(std::memory_order_relaxed);
}

}  // namespace clipper
