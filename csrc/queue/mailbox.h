// Where finished queries wait for the thread that will collect them: an event loop, the reaper, a
// load generator. Many threads post; one reads.
//
// An intrusive stack: posting never allocates and never fails. The reader is signalled only on the
// edge from empty to not empty, and only while it sleeps: a burst of completions costs one wake-up.
//
// Thread safety: post() from any thread; the rest from the reader alone.
#pragma once

#include <atomic>

#include "base/event_fd.h"

namespace clipper {

/// Base of what can be posted. At most in one mailbox at a time.
struct Letter {
  Letter* next_letter = nullptr;
};

class Mailbox {
 public:
  void post(Letter& letter) noexcept {
    Letter* head = head_.load(std::memory_order_relaxed);
    do {
      letter.next_letter = head;
    } while (!head_.compare_exchange_weak(head, &letter, std::memory_order_seq_cst,
                                          std::memory_order_relaxed));
    // Pairs with set_awake(false): either this load sees the reader asleep, or the reader's look at
    // head_ after falling asleep sees the letter.
    if (head == nullptr && !awake_.load(std::memory_order_seq_cst)) event_.signal();
  }

  /// All letters, first posted first; nullptr if there are none.
  [[nodiscard]] Letter* take_all() noexcept {
    Letter* letter = head_.exchange(nullptr, std::memory_order_acquire);
    Letter* in_order = nullptr;
    while (letter != nullptr) {
      Letter* next = letter->next_letter;
      letter->next_letter = in_order;
      in_order = letter;
      letter = next;
    }
    return in_order;
  }

  [[nodiscard]] bool empty() const noexcept {
    return head_.load(std::memory_order_seq_cst) == nullptr;
  }

  /// An awake reader promises to look again before it sleeps, and is not signalled.
  void set_awake(bool awake) noexcept {
    awake_.store(awake, std::memory_order_seq_cst);
    if (!awake && !empty()) event_.signal();
  }

  /// Readable when letters came while the reader slept. Clear it before taking the letters.
  [[nodiscard]] int fd() const noexcept { return event_.fd(); }
  void clear_signal() noexcept { event_.drain(); }
  void signal() noexcept { event_.signal(); }

 private:
  std::atomic<Letter*> head_{nullptr};
  std::atomic<bool> awake_{false};
  EventFd event_;
};

}  // namespace clipper
