// Waking another thread: futex and mailbox against a condition variable and an eventfd for each.
#include <poll.h>

#include <condition_variable>
#include <mutex>
#include <vector>

#include "base/event_fd.h"
#include "base/parker.h"
#include "measure.h"
#include "queue/mailbox.h"

namespace {

using namespace clipper;

void wait_readable(int fd) {
  pollfd doorbell{fd, POLLIN, 0};
  bench::expect(poll(&doorbell, 1, 60'000) == 1, "the doorbell rang");
}

/// Two parties take turns `operations` times; `Turn` hands over and waits.
template <typename Turn>
void ping_pong(std::uint64_t operations) {
  Turn turn;
  bench::on_threads(2, [&](unsigned number) {
    for (std::uint64_t i = 0; i < operations; ++i) turn.take(number);
  });
}

class ConditionTurn {
 public:
  void take(unsigned number) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return whose_ == number; });
    whose_ = 1 - number;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  unsigned whose_ = 0;
};

class FutexTurn {
 public:
  void take(std::uint32_t number) {
    while (whose_.load(std::memory_order_acquire) != number) {
      static_cast<void>(park_until(whose_, 1 - number, kNever));
    }
    whose_.store(1 - number, std::memory_order_release);
    wake_one(whose_);
  }

 private:
  std::atomic<std::uint32_t> whose_{0};
};

class EventFdTurn {
 public:
  EventFdTurn() { bells_[0].signal(); }
  void take(unsigned number) {
    wait_readable(bells_[number].fd());
    bells_[number].drain();
    bells_[1 - number].signal();
  }

 private:
  EventFd bells_[2];
};

class MailboxTurn {
 public:
  MailboxTurn() { boxes_[0].post(letter_); }
  void take(unsigned number) {
    Mailbox& box = boxes_[number];
    Letter* letter = box.take_all();
    while (letter == nullptr) {
      wait_readable(box.fd());
      box.clear_signal();
      letter = box.take_all();
    }
    boxes_[1 - number].post(*letter);
  }

 private:
  Letter letter_;
  Mailbox boxes_[2];
};

constexpr std::uint64_t kBurst = 64;

/// A reader that is awake takes bursts of 64 letters; an operation is one letter.
void post_to_mailbox(std::uint64_t operations) {
  Mailbox box;
  std::vector<Letter> letters(kBurst);
  box.set_awake(true);
  for (std::uint64_t done = 0; done < operations; done += kBurst) {
    for (Letter& letter : letters) box.post(letter);
    std::uint64_t taken = 0;
    for (const Letter* letter = box.take_all(); letter != nullptr; letter = letter->next_letter) {
      ++taken;
    }
    bench::expect(taken == kBurst, "every letter was taken once");
  }
}

void post_to_vector(std::uint64_t operations) {
  std::mutex mutex;
  std::vector<Letter*> box;
  std::vector<Letter*> taken;
  std::vector<Letter> letters(kBurst);
  for (std::uint64_t done = 0; done < operations; done += kBurst) {
    for (Letter& letter : letters) {
      const std::scoped_lock lock(mutex);
      box.push_back(&letter);
    }
    taken.clear();
    {
      const std::scoped_lock lock(mutex);
      taken.swap(box);
    }
    bench::expect(taken.size() == kBurst, "every letter was taken once");
  }
}

void ring_for_each(std::uint64_t operations) {
  EventFd bell;
  for (std::uint64_t done = 0; done < operations; done += kBurst) {
    for (std::uint64_t i = 0; i < kBurst; ++i) bell.signal();
    bench::expect(bell.drain() == kBurst, "every ring was counted");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Bench bench(argc, argv);
  bench.compare("two threads take turns, to and fro", 2'000,
                {{"condition variable", ping_pong<ConditionTurn>},
                 {"futex", ping_pong<FutexTurn>},
                 {"eventfd", ping_pong<EventFdTurn>},
                 {"mailbox", ping_pong<MailboxTurn>}});
  bench.compare("64 completions for a reader that is awake", 64'000,
                {{"eventfd rung for each", ring_for_each},
                 {"mutex and vector", post_to_vector},
                 {"mailbox", post_to_mailbox}});
  return 0;
}
