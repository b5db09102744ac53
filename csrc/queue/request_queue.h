// The bounded lock-free queue through which requests reach a model: many producers, and whoever
// drives a replica as the consumer. It carries handles and where their rows lie, never the rows.
//
// Source: D. Vyukov, "Bounded MPMC queue", 1024cores.net, 2010. Each cell's sequence number says
// whose turn it is: equal to the position, a producer's; position + 1, a consumer's.
//
// Thread safety: all of it. Latency: one compare-and-swap each way when nobody interferes.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace clipper {

template <typename T>
class RequestQueue {
  static_assert(std::is_trivially_copyable_v<T>, "cells are overwritten, never destroyed");

 public:
  /// Holds `capacity` entries, rounded up to a power of two.
  explicit RequestQueue(std::uint32_t capacity)
      : mask_(std::bit_ceil(std::uint64_t{capacity < 2 ? 2 : capacity}) - 1),
        cells_(std::make_unique<Cell[]>(mask_ + 1)) {
    for (std::uint64_t i = 0; i <= mask_; ++i) {
      cells_[i].sequence.store(i, std::memory_order_relaxed);
    }
  }

  /// False: full, and nothing was taken.
  [[nodiscard]] bool try_push(const T& value) noexcept {
    std::uint64_t position = tail_.load(std::memory_order_relaxed);
    for (;;) {
      Cell& cell = cells_[position & mask_];
      const std::uint64_t sequence = cell.sequence.load(std::memory_order_acquire);
      const auto turn = static_cast<std::int64_t>(sequence - position);
      if (turn < 0) return false;
      if (turn > 0) {
        position = tail_.load(std::memory_order_relaxed);
      } else if (tail_.compare_exchange_weak(position, position + 1, std::memory_order_seq_cst,
                                             std::memory_order_relaxed)) {
        cell.value = value;
        cell.sequence.store(position + 1, std::memory_order_release);
        return true;
      }
    }
  }

  /// False: empty, or the next entry is still being written.
  [[nodiscard]] bool try_pop(T& value) noexcept {
    std::uint64_t position = head_.load(std::memory_order_relaxed);
    for (;;) {
      Cell& cell = cells_[position & mask_];
      const std::uint64_t sequence = cell.sequence.load(std::memory_order_acquire);
      const auto turn = static_cast<std::int64_t>(sequence - (position + 1));
      if (turn < 0) return false;
      if (turn > 0) {
        position = head_.load(std::memory_order_relaxed);
      } else if (head_.compare_exchange_weak(position, position + 1, std::memory_order_relaxed)) {
        value = cell.value;
        cell.sequence.store(position + mask_ + 1, std::memory_order_release);
        return true;
      }
    }
  }

  /// May be stale by the time it is read, but never misses a push that happened before the call.
  [[nodiscard]] bool empty() const noexcept {
    return tail_.load(std::memory_order_seq_cst) == head_.load(std::memory_order_seq_cst);
  }
  [[nodiscard]] std::uint64_t capacity() const noexcept { return mask_ + 1; }

 private:
  static constexpr std::size_t kCacheLine = 64;

  struct Cell {
    std::atomic<std::uint64_t> sequence{0};
    T value{};
  };

  const std::uint64_t mask_;
  const std::unique_ptr<Cell[]> cells_;
  alignas(kCacheLine) std::atomic<std::uint64_t> tail_{0};  // producers
  alignas(kCacheLine) std::atomic<std::uint64_t> head_{0};  // consumers
};

}  // namespace clipper
