// The request queue against a deque behind a mutex.
#include <deque>
#include <mutex>

#include "measure.h"
#include "queue/request_queue.h"
#include "queue/waiting_rows.h"

namespace {

using namespace clipper;

constexpr std::uint32_t kCapacity = 1024;

class LockedQueue {
 public:
  bool try_push(const WaitingRows& entry) {
    const std::scoped_lock lock(mutex_);
    if (entries_.size() >= kCapacity) return false;
    entries_.push_back(entry);
    return true;
  }
  bool try_pop(WaitingRows& entry) {
    const std::scoped_lock lock(mutex_);
    if (entries_.empty()) return false;
    entry = entries_.front();
    entries_.pop_front();
    return true;
  }

 private:
  std::mutex mutex_;
  std::deque<WaitingRows> entries_;
};

template <typename Queue>
void push_and_pop(Queue& queue, std::uint64_t operations) {
  WaitingRows entry;
  for (std::uint64_t i = 0; i < operations; ++i) {
    entry.offset = static_cast<std::uint32_t>(i);
    bench::expect(queue.try_push(entry), "an empty queue takes an entry");
    bench::expect(queue.try_pop(entry), "and gives it back");
    bench::keep(entry);
  }
}

/// A full ring is drained at once, as a driver does.
template <typename Queue>
void fill_and_drain(Queue& queue, std::uint64_t operations) {
  constexpr std::uint64_t kBurst = 64;
  WaitingRows entry;
  for (std::uint64_t done = 0; done < operations; done += kBurst) {
    for (std::uint64_t i = 0; i < kBurst; ++i) {
      bench::expect(queue.try_push(entry), "there is room");
    }
    for (std::uint64_t i = 0; i < kBurst; ++i) {
      bench::expect(queue.try_pop(entry), "what was pushed is there");
    }
    bench::keep(entry);
  }
}

/// `producers` threads push `operations` entries altogether, one pops them.
template <typename Queue>
void across_threads(Queue& queue, unsigned producers, std::uint64_t operations) {
  bench::on_threads(producers + 1, [&](unsigned number) {
    WaitingRows entry;
    if (number == producers) {
      for (std::uint64_t left = operations / producers * producers; left > 0;) {
        if (queue.try_pop(entry)) {
          --left;
        } else {
          std::this_thread::yield();
        }
      }
      return;
    }
    for (std::uint64_t i = 0; i < operations / producers; ++i) {
      while (!queue.try_push(entry)) std::this_thread::yield();
    }
  });
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Bench bench(argc, argv);
  RequestQueue<WaitingRows> ring(kCapacity);
  LockedQueue locked;
  bench.compare("one thread: push and pop", 200'000,
                {{"mutex and deque", [&](auto n) { push_and_pop(locked, n); }},
                 {"request queue", [&](auto n) { push_and_pop(ring, n); }}});
  bench.compare("one thread: push 64, pop 64", 200'000,
                {{"mutex and deque", [&](auto n) { fill_and_drain(locked, n); }},
                 {"request queue", [&](auto n) { fill_and_drain(ring, n); }}});
  bench.compare("one producer, one consumer", 200'000,
                {{"mutex and deque", [&](auto n) { across_threads(locked, 1, n); }},
                 {"request queue", [&](auto n) { across_threads(ring, 1, n); }}});
  bench.compare("four producers, one consumer", 200'000,
                {{"mutex and deque", [&](auto n) { across_threads(locked, 4, n); }},
                 {"request queue", [&](auto n) { across_threads(ring, 4, n); }}});
  return 0;
}
