// A counter that many threads add to without sharing a cache line.
//
// Thread safety: all of it, from any thread. read() is no snapshot: what is added while it runs is
// counted or not. Once the adders are joined it is exact.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace clipper {

class StripedCounter {
 public:
  /// More threads than stripes share them: still exact, only slower.
  static constexpr std::size_t kStripes = 16;

  StripedCounter() = default;
  StripedCounter(const StripedCounter&) = delete;
  StripedCounter& operator=(const StripedCounter&) = delete;

  void add(std::uint64_t by = 1) noexcept {
    // Relaxed: a count orders nothing.
    stripes_[stripe_of_this_thread()].count.fetch_add(by, std::memory_order_relaxed);
  }

  [[nodiscard]] std::uint64_t read() const noexcept {
    std::uint64_t sum = 0;
    for (const Stripe& stripe : stripes_) sum += stripe.count.load(std::memory_order_relaxed);
    return sum;
  }

 private:
  static constexpr std::size_t kCacheLineBytes = 64;

  struct alignas(kCacheLineBytes) Stripe {
    std::atomic<std::uint64_t> count{0};
  };
  static_assert(sizeof(Stripe) == kCacheLineBytes, "stripes must not share a cache line");

  static std::size_t stripe_of_this_thread() noexcept {
    static std::atomic<std::size_t> threads{0};
    thread_local const std::size_t stripe =
        threads.fetch_add(1, std::memory_order_relaxed) % kStripes;
    return stripe;
  }

  std::array<Stripe, kStripes> stripes_;
};

}  // namespace clipper
