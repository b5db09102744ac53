// The engine's end of queries that nobody waits for, and its own end.
#include <poll.h>

#include <algorithm>
#include <array>

#include "base/fork_epoch.h"
#include "serving/engine.h"

namespace clipper {
namespace {

// Deadlines that lie this close together are reaped together.
constexpr Nanos kReapTogether = 50 * kMicrosecond;

}  // namespace

Nanos Engine::reap() noexcept {
  const Nanos now_ns = clock_.now_ns();
  // Queries that are submitted during the scan lower it again.
  next_reap_ns_.store(kNever, std::memory_order_seq_cst);
  Nanos next_ns = kNever;
  const std::uint32_t slots = queries_.slots();
  for (std::uint32_t slot = 0; slot < slots; ++slot) {
    Query& query = queries_.at(slot);
    const std::uint32_t phase = query.phase.load(std::memory_order_seq_cst);
    if (!Query::is_open(phase)) continue;
    const Nanos at_ns = query.reap_at_ns.load(std::memory_order_relaxed);
    if (at_ns <= now_ns + kReapTogether) {
      query.finish_if(phase, Cause::kDeadline, now_ns);
    } else {
      next_ns = std::min(next_ns, at_ns);
    }
  }
  Nanos seen_ns = next_reap_ns_.load(std::memory_order_seq_cst);
  while (next_ns < seen_ns &&
         !next_reap_ns_.compare_exchange_weak(seen_ns, next_ns, std::memory_order_seq_cst)) {
  }
  return std::min(next_ns, seen_ns);
}

void Engine::wait_for_reaping(Nanos until_ns) noexcept {
  reaper_asleep_.store(true, std::memory_order_seq_cst);
  // A query that was submitted before the flag was set has not woken us: look once more.
  if (next_reap_ns_.load(std::memory_order_seq_cst) >= until_ns && reaper_box_.empty() &&
      shadow_box_.empty()) {
    const Nanos left_ns = std::max<Nanos>(until_ns - clock_.now_ns(), 0);
    const timespec left{static_cast<time_t>(left_ns / kSecond),
                        static_cast<long>(left_ns % kSecond)};
    std::array<pollfd, 2> doorbells{{{reaper_box_.fd(), POLLIN, 0}, {shadow_box_.fd(), POLLIN, 0}}};
    static_cast<void>(
        ppoll(doorbells.data(), doorbells.size(), until_ns == kNever ? nullptr : &left, nullptr));
  }
  reaper_asleep_.store(false, std::memory_order_seq_cst);
  reaper_box_.clear_signal();
  shadow_box_.clear_signal();
  collect_shadows();
}

void Engine::close() noexcept {
  closed_.store(true, std::memory_order_seq_cst);
  const Nanos now_ns = clock_.now_ns();
  const std::uint32_t slots = queries_.slots();
  for (std::uint32_t slot = 0; slot < slots; ++slot) {
    Query& query = queries_.at(slot);
    const std::uint32_t phase = query.phase.load(std::memory_order_seq_cst);
    if (Query::is_open(phase)) query.finish_if(phase, Cause::kCancelled, now_ns);
  }
  wake_reaper();
}

std::uint32_t Engine::open_queries() noexcept {
  const std::uint32_t slots = queries_.slots();
  std::uint32_t open = 0;
  for (std::uint32_t slot = 0; slot < slots; ++slot) {
    if (Query::is_open(queries_.at(slot).phase.load(std::memory_order_relaxed))) ++open;
  }
  return open;
}

bool Engine::is_forked() const noexcept { return fork_epoch() != fork_epoch_; }

}  // namespace clipper
