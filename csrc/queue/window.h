// A model's waiting rows: a rank for each priority, in each the earliest deadline first.
//
// A batch is taken from the most urgent rank that has rows, unless a lesser one is due. A rank that
// waits while a batch of another runs is owed a tenth of its time, and is due when that has grown
// to what its own batch will take: so every rank that always has rows gets at least a sixteenth of
// a replica's time whatever comes above it, and a tenth of what the ranks above it get. This is
// deficit round robin (Shreedhar and Varghese, "Efficient fair queueing using deficit round
// robin", SIGCOMM 1995) with time as the currency and the most urgent rank served by default.
//
// With one priority in use this is its rank, and nothing is counted.
//
// Thread safety: none; the deployment's window mutex guards it.
// Invariants: head() is of the rank that was chosen while that has rows, then of the most urgent.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "queue/deadline_order.h"
#include "queue/waiting_rows.h"

namespace clipper {

class Window {
 public:
  static constexpr std::size_t kRanks = kMostPriority - kLeastPriority + 1;

  void push(const WaitingRows& entry) {
    const std::size_t rank = rank_of(entry.priority);
    ranks_[rank].push(entry);
    waiting_ |= 1U << rank;
    if (entries_++ == 0) chosen_ = rank;
    rows_ += entry.run.rows;
  }

  [[nodiscard]] bool empty() const noexcept { return entries_ == 0; }
  [[nodiscard]] std::size_t entries() const noexcept { return entries_; }
  /// Of all ranks.
  [[nodiscard]] std::uint32_t rows() const noexcept { return rows_; }

  /// Of the chosen rank. REQUIRES: !empty()
  [[nodiscard]] const WaitingRows& head() const noexcept { return ranks_[chosen_].head(); }
  [[nodiscard]] std::uint32_t rank_rows() const noexcept { return ranks_[chosen_].rows(); }
  [[nodiscard]] Nanos tail_deadline_ns() const noexcept {
    return ranks_[chosen_].tail_deadline_ns();
  }

  /// REQUIRES: !empty()
  void pop_head() noexcept {
    DeadlineOrder& rank = ranks_[chosen_];
    rows_ -= rank.head().run.rows;
    --entries_;
    rank.pop_head();
    if (rank.empty()) leave_rank();
  }

  /// Takes the first `rows` rows off the head entry. REQUIRES: fewer than the head has.
  void shorten_head(std::uint32_t rows) noexcept {
    ranks_[chosen_].shorten_head(rows);
    rows_ -= rows;
  }

  /// Takes out every entry that `is_dead`, handing each to `bury`.
  template <typename IsDead, typename Bury>
  void sweep(IsDead&& is_dead, Bury&& bury) {
    for (std::size_t rank = 0; rank < kRanks; ++rank) {
      if (!has_rows(rank)) continue;
      ranks_[rank].sweep(is_dead, bury);
      if (ranks_[rank].empty()) waiting_ &= ~(1U << rank);
    }
    rows_ = 0;
    entries_ = 0;
    for (const DeadlineOrder& rank : ranks_) {
      rows_ += rank.rows();
      entries_ += rank.entries();
    }
    if (!has_rows(chosen_)) choose_most_urgent();
  }

  // Several ranks.

  [[nodiscard]] bool has_several_ranks() const noexcept { return (waiting_ & (waiting_ - 1)) != 0; }

  [[nodiscard]] bool is_most_urgent_chosen() const noexcept { return chosen_ == top(); }

  /// Chooses the rank of the next batch. `cost_ns(rows)` is what a batch of so many will take.
  template <typename Cost>
  void choose_rank(Cost&& cost_ns) noexcept {
    choose_most_urgent();
    if (!has_several_ranks()) return;
    for (std::size_t rank = 0; rank < chosen_; ++rank) {  // the least urgent first: it got least
      if (has_rows(rank) && owed_ns_[rank] >= std::max<Nanos>(cost_ns(ranks_[rank].rows()), 1)) {
        chosen_ = rank;
        return;
      }
    }
  }

  /// A batch was taken, its first rows of this priority, and will take `took_ns`: lesser ranks than
  /// it, or than those that still wait, are owed a share of that if they still wait. No debt grows
  /// beyond a second, or one such batch.
  void charge(Priority served, Nanos took_ns) noexcept {
    const std::size_t paid = rank_of(served);
    owed_ns_[paid] = std::max<Nanos>(owed_ns_[paid] - took_ns, 0);
    const std::size_t most_urgent = std::max(paid, top());
    for (std::size_t rank = 0; rank < most_urgent; ++rank) {
      if (rank == paid || !has_rows(rank)) continue;
      owed_ns_[rank] =
          std::min(owed_ns_[rank] + took_ns / kOwedOneIn, std::max(kMostOwed, took_ns));
    }
  }

  [[nodiscard]] bool has_rows(std::size_t rank) const noexcept {
    return (waiting_ >> rank & 1U) != 0;
  }
  /// REQUIRES: has_rows(rank).
  [[nodiscard]] const DeadlineOrder& of_rank(std::size_t rank) const noexcept {
    return ranks_[rank];
  }
  /// The rank with which head() goes on when the chosen one is empty, and so on; kRanks: none.
  [[nodiscard]] std::size_t next_rank() const noexcept { return rank_below(kRanks); }
  [[nodiscard]] std::size_t rank_below(std::size_t rank) const noexcept {
    const std::uint32_t below = waiting_ & ((1U << rank) - 1) & ~(1U << chosen_);
    return below == 0 ? kRanks : static_cast<std::size_t>(std::bit_width(below)) - 1;
  }

  /// Calls `change` while head() is that of `rank`. REQUIRES: has_rows(rank).
  template <typename Change>
  void with_rank(std::size_t rank, Change&& change) {
    const std::size_t chosen = chosen_;
    chosen_ = rank;
    change();
    chosen_ = has_rows(chosen) ? chosen : top();
  }

  /// Calls `drop`, which takes the head, for heads of all ranks but the chosen one that are `lost`.
  template <typename IsLost, typename Drop>
  void drop_lost_heads(IsLost&& is_lost, Drop&& drop) {
    const std::size_t chosen = chosen_;
    for (std::size_t rank = 0; rank < kRanks; ++rank) {
      if (rank == chosen) continue;
      while (has_rows(rank) && is_lost(ranks_[rank].head())) with_rank(rank, drop);
    }
  }

 private:
  static constexpr Nanos kOwedOneIn = 10;
  static constexpr Nanos kMostOwed = kSecond;

  [[nodiscard]] static constexpr std::size_t rank_of(Priority priority) noexcept {
    return static_cast<std::size_t>(priority - kLeastPriority);
  }
  /// The most urgent rank that has rows; 0 if none has.
  [[nodiscard]] std::size_t top() const noexcept {
    return waiting_ == 0 ? 0 : static_cast<std::size_t>(std::bit_width(waiting_)) - 1;
  }
  void choose_most_urgent() noexcept { chosen_ = top(); }
  void leave_rank() noexcept {
    waiting_ &= ~(1U << chosen_);
    choose_most_urgent();
  }

  std::array<DeadlineOrder, kRanks> ranks_;
  std::uint32_t waiting_ = 0;  // one bit a rank: it has rows
  std::size_t chosen_ = 0;
  std::uint32_t rows_ = 0;
  std::size_t entries_ = 0;
  std::array<Nanos, kRanks> owed_ns_{};
};

}  // namespace clipper
