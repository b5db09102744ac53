#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/parker.h"
#include "check.h"

namespace {

using clipper::kMillisecond;
using clipper::kNever;
using clipper::kSecond;
using clipper::MonotonicClock;
using clipper::Nanos;
using clipper::park_until;
using clipper::ParkResult;

const MonotonicClock monotonic_clock;

TEST(a_word_that_has_changed_is_not_waited_for) {
  const std::atomic<std::uint32_t> word{1};
  CHECK_EQ(park_until(word, 0, kNever), ParkResult::kWoken);
}

TEST(a_time_already_past_returns_at_once) {
  const std::atomic<std::uint32_t> word{0};
  CHECK_EQ(park_until(word, 0, monotonic_clock.now_ns() - kSecond), ParkResult::kTimedOut);
  CHECK_EQ(park_until(word, 0, 0), ParkResult::kTimedOut);
  CHECK_EQ(park_until(word, 0, -1), ParkResult::kTimedOut);
}

TEST(the_deadline_is_absolute_and_never_early) {
  const std::atomic<std::uint32_t> word{0};
  const Nanos deadline_ns = monotonic_clock.now_ns() + 5 * kMillisecond;
  CHECK_EQ(park_until(word, 0, deadline_ns), ParkResult::kTimedOut);
  CHECK(monotonic_clock.now_ns() >= deadline_ns);
}

/// Both sides change the word and wake the other; a lost wake-up would hang it.
TEST(two_threads_wake_each_other) {
  constexpr std::uint32_t kRounds = 2'000;
  std::atomic<std::uint32_t> turn{0};
  const auto play = [&turn](std::uint32_t parity) {
    for (std::uint32_t round = parity; round < kRounds; round += 2) {
      std::uint32_t seen;
      while ((seen = turn.load(std::memory_order_acquire)) != round) {
        (void)park_until(turn, seen, kNever);
      }
      turn.store(round + 1, std::memory_order_release);
      clipper::wake_one(turn);
    }
  };
  std::jthread odd(play, 1);
  play(0);
  odd.join();
  CHECK_EQ(turn.load(), kRounds);
}

TEST(wake_all_wakes_all) {
  std::atomic<std::uint32_t> gate{0};
  std::vector<std::jthread> waiters;
  for (int i = 0; i < 4; ++i) {
    waiters.emplace_back([&gate] {
      while (gate.load(std::memory_order_acquire) == 0) (void)park_until(gate, 0, kNever);
    });
  }
  gate.store(1, std::memory_order_release);
  clipper::wake_all(gate);
}

TEST(a_signal_interrupts) {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  CHECK_EQ(sigaction(SIGUSR1, &action, nullptr), 0);

  std::atomic<std::uint32_t> word{0};
  std::atomic<bool> interrupted{false};
  std::jthread sleeper([&] {
    while (park_until(word, 0, kNever) != ParkResult::kInterrupted) {
    }
    interrupted.store(true, std::memory_order_release);
  });
  // One that comes before the thread sleeps is lost, so: until it is seen.
  while (!interrupted.load(std::memory_order_acquire)) {
    pthread_kill(sleeper.native_handle(), SIGUSR1);
    std::this_thread::yield();
  }
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
