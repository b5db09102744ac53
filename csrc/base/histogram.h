// Latencies, counted in buckets that are narrow where values are small: recording costs two relaxed
// additions, any quantile is known to about 3 %, and histograms of many threads add up.
//
// The layout is HdrHistogram's (Tene, hdrhistogram.org): values below 32 have a bucket each, and
// every octave above is cut into 32 buckets of equal width.
//
// Thread safety: Histogram all of it, from any thread; HistogramSnapshot is a value.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/clock.h"

namespace clipper {

/// What was recorded up to some moment. Counts that arrive while it is taken are in it or not.
class HistogramSnapshot {
 public:
  static constexpr std::uint32_t kBucketsPerOctave = 32;
  /// About 18 minutes; longer values count as this one.
  static constexpr Nanos kLargest = (Nanos{1} << 40) - 1;

  /// Which bucket counts `value`; below 0 counts as 0.
  [[nodiscard]] static constexpr std::size_t bucket_of(Nanos value) noexcept {
    const auto clamped =
        static_cast<std::uint64_t>(value < 0 ? 0 : (value > kLargest ? kLargest : value));
    if (clamped < kBucketsPerOctave) return clamped;
    const auto octave = static_cast<std::uint64_t>(std::bit_width(clamped)) - kLinearBits;
    return (octave - 1) * kBucketsPerOctave + (clamped >> (octave - 1));
  }
  static constexpr std::size_t kBuckets = 36 * kBucketsPerOctave;

  /// The largest value that counts in `bucket`.
  [[nodiscard]] static constexpr Nanos upper_bound(std::size_t bucket) noexcept {
    if (bucket < kBucketsPerOctave) return static_cast<Nanos>(bucket);
    const std::size_t shift = bucket / kBucketsPerOctave - 1;
    const std::size_t step = bucket - shift * kBucketsPerOctave;
    return static_cast<Nanos>(((step + 1) << shift) - 1);
  }

  /// Adds what `other` counted.
  void merge(const HistogramSnapshot& other) noexcept;

  [[nodiscard]] std::uint64_t count() const noexcept;
  [[nodiscard]] std::uint64_t count_of(std::size_t bucket) const noexcept {
    return counts_[bucket];
  }
  [[nodiscard]] std::uint64_t sum_ns() const noexcept { return sum_; }
  /// Exact; 0 if nothing was recorded.
  [[nodiscard]] Nanos max_ns() const noexcept { return max_; }
  /// Exact; 0 if nothing was recorded.
  [[nodiscard]] double mean_ns() const noexcept;

  /// A value that at least the share `p` of all values does not exceed: the upper bound of the
  /// bucket where that is reached, so never less than the true quantile and at most 1/32 more.
  /// 0 if nothing was recorded. REQUIRES: 0 <= p <= 1.
  [[nodiscard]] Nanos quantile_ns(double p) const noexcept;

 private:
  friend class Histogram;

  static constexpr std::uint64_t kLinearBits = 5;
  static_assert(kBucketsPerOctave == 1u << kLinearBits);

  std::array<std::uint64_t, kBuckets> counts_{};
  std::uint64_t sum_ = 0;
  Nanos max_ = 0;
};

static_assert(HistogramSnapshot::bucket_of(HistogramSnapshot::kLargest) + 1 ==
              HistogramSnapshot::kBuckets);

class Histogram {
 public:
  Histogram() = default;
  Histogram(const Histogram&) = delete;
  Histogram& operator=(const Histogram&) = delete;

  /// Counts `value_ns` once. Wait-free except where it is the largest so far.
  void record(Nanos value_ns) noexcept {
    // Relaxed throughout: counts order nothing, and a reader takes what it finds.
    counts_[HistogramSnapshot::bucket_of(value_ns)].fetch_add(1, std::memory_order_relaxed);
    const Nanos value = value_ns < 0 ? 0 : value_ns;
    sum_.fetch_add(static_cast<std::uint64_t>(value), std::memory_order_relaxed);
    raise_max(value);
  }

  /// Adds all that this one counted to `other`.
  void merge_into(Histogram& other) const noexcept;

  [[nodiscard]] HistogramSnapshot snapshot() const noexcept;

 private:
  void raise_max(Nanos value) noexcept {
    Nanos seen = max_.load(std::memory_order_relaxed);
    while (value > seen && !max_.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
    }
  }

  std::array<std::atomic<std::uint64_t>, HistogramSnapshot::kBuckets> counts_{};
  std::atomic<std::uint64_t> sum_{0};
  std::atomic<Nanos> max_{0};
};

}  // namespace clipper
