// Waiting rows in the order of their deadlines: earliest deadline first, then arrival.
//
// With equal objectives rows arrive in the order of their deadlines, and this is a plain
// ring. A row that is due before the ring's last one goes to a heap beside it; the head is the
// earlier of the two heads. So the usual case costs a few nanoseconds, any other O(log n).
//
// Thread safety: none; the deployment's window mutex guards it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <vector>

#include "queue/waiting_rows.h"

namespace clipper {

class DeadlineOrder {
 public:
  void push(const WaitingRows& entry) {
    rows_ += entry.run.rows;
    const Ordered ordered{entry, pushed_++};
    if (in_order_.empty() || entry.deadline_ns >= in_order_.back().entry.deadline_ns) {
      in_order_.push_back(ordered);
    } else {
      early_.push_back(ordered);
      std::push_heap(early_.begin(), early_.end(), due_later);
    }
  }

  [[nodiscard]] bool empty() const noexcept { return in_order_.empty() && early_.empty(); }
  [[nodiscard]] std::uint32_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::size_t entries() const noexcept { return in_order_.size() + early_.size(); }

  /// REQUIRES: !empty()
  [[nodiscard]] const WaitingRows& head() const noexcept {
    return head_is_early() ? early_.front().entry : in_order_.front().entry;
  }

  /// The latest deadline of all; where all that wait came out of order, the earliest.
  /// REQUIRES: !empty()
  [[nodiscard]] Nanos tail_deadline_ns() const noexcept {
    return in_order_.empty() ? head().deadline_ns : in_order_.back().entry.deadline_ns;
  }

  /// REQUIRES: !empty()
  void pop_head() noexcept {
    rows_ -= head().run.rows;
    if (head_is_early()) {
      std::pop_heap(early_.begin(), early_.end(), due_later);
      early_.pop_back();
    } else {
      in_order_.pop_front();
    }
  }

  /// Takes the first `rows` rows off the head entry. REQUIRES: fewer than the head has.
  void shorten_head(std::uint32_t rows) noexcept {
    WaitingRows& entry = head_is_early() ? early_.front().entry : in_order_.front().entry;
    entry.offset += rows;
    entry.run.first += rows;
    entry.run.rows -= rows;
    rows_ -= rows;
  }

  /// Takes out every entry that `is_dead`, handing each to `bury`.
  template <typename IsDead, typename Bury>
  void sweep(IsDead&& is_dead, Bury&& bury) {
    const auto dead = [&](const Ordered& ordered) {
      if (!is_dead(ordered.entry)) return false;
      rows_ -= ordered.entry.run.rows;
      bury(ordered.entry);
      return true;
    };
    std::erase_if(in_order_, dead);
    if (std::erase_if(early_, dead) > 0) std::make_heap(early_.begin(), early_.end(), due_later);
  }

 private:
  struct Ordered {
    WaitingRows entry;
    std::uint64_t order;  // ties go to the one that came first
  };

  static bool due_later(const Ordered& a, const Ordered& b) noexcept {
    return a.entry.deadline_ns != b.entry.deadline_ns ? a.entry.deadline_ns > b.entry.deadline_ns
                                                      : a.order > b.order;
  }
  [[nodiscard]] bool head_is_early() const noexcept {
    return !early_.empty() && (in_order_.empty() || due_later(in_order_.front(), early_.front()));
  }

  std::deque<Ordered> in_order_;
  std::vector<Ordered> early_;
  std::uint32_t rows_ = 0;
  std::uint64_t pushed_ = 0;
};

}  // namespace clipper
