// A replica whose batches run elsewhere is driven by a thread that mostly sleeps. Meanwhile it
// lends its seat: a caller that will wait anyway posts its batch and takes the answer itself, and
// two wake-ups between threads are saved.
//
// Thread safety: one thread lends, any may borrow. Whoever has the seat alone touches the courier.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/clock.h"

namespace clipper {

class Query;

/// Carries batches to where they run, and answers back.
class Courier {
 public:
  /// Drives until `query` is done, `until_ns`, or the seat's owner wants it back, and gives it
  /// back. REQUIRES: the seat was borrowed. False: a signal came.
  [[nodiscard]] virtual bool carry(Query& query, Nanos until_ns) noexcept = 0;

 protected:
  ~Courier() = default;
};

class Loan {
 public:
  // The owner's side.

  void offer(Courier& courier) noexcept {
    courier_ = &courier;
    state_.store(kOffered, std::memory_order_seq_cst);
  }
  /// Takes the seat back. False: a caller has it, and finds it wanted.
  [[nodiscard]] bool reclaim() noexcept {
    std::uint32_t state = kOffered;
    if (state_.compare_exchange_strong(state, kHome, std::memory_order_seq_cst)) return true;
    state = kLent;
    return !state_.compare_exchange_strong(state, kWanted, std::memory_order_seq_cst) &&
           (state == kHome || reclaim());
  }
  [[nodiscard]] bool is_home() const noexcept {
    return state_.load(std::memory_order_acquire) == kHome;
  }

  // A caller's side.

  /// nullptr: not to be had.
  [[nodiscard]] Courier* borrow() noexcept {
    std::uint32_t state = kOffered;
    const bool got = state_.load(std::memory_order_relaxed) == kOffered &&
                     state_.compare_exchange_strong(state, kLent, std::memory_order_seq_cst);
    return got ? courier_ : nullptr;
  }
  [[nodiscard]] bool is_wanted() const noexcept {
    return state_.load(std::memory_order_relaxed) == kWanted;
  }
  /// True: the next caller may borrow. False: the owner waits for it, and must be woken.
  [[nodiscard]] bool give_back() noexcept {
    std::uint32_t state = kLent;
    if (state_.compare_exchange_strong(state, kOffered, std::memory_order_seq_cst)) return true;
    hand_over();
    return false;
  }
  /// To the owner, who must be woken.
  void hand_over() noexcept { state_.store(kHome, std::memory_order_seq_cst); }

 private:
  static constexpr std::uint32_t kHome = 0;
  static constexpr std::uint32_t kOffered = 1;
  static constexpr std::uint32_t kLent = 2;
  static constexpr std::uint32_t kWanted = 3;

  alignas(64) std::atomic<std::uint32_t> state_{kHome};
  Courier* courier_ = nullptr;  // published by state_
};

}  // namespace clipper
