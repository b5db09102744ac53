#include "base/histogram.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace clipper {

void HistogramSnapshot::merge(const HistogramSnapshot& other) noexcept {
  for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) {
    counts_[bucket] += other.counts_[bucket];
  }
  sum_ += other.sum_;
  max_ = std::max(max_, other.max_);
}

std::uint64_t HistogramSnapshot::count() const noexcept {
  return std::accumulate(counts_.begin(), counts_.end(), std::uint64_t{0});
}

double HistogramSnapshot::mean_ns() const noexcept {
  const std::uint64_t values = count();
  return values == 0 ? 0.0 : static_cast<double>(sum_) / static_cast<double>(values);
}

Nanos HistogramSnapshot::quantile_ns(double p) const noexcept {
  const std::uint64_t values = count();
  if (values == 0) return 0;
  const auto wanted = static_cast<std::uint64_t>(std::ceil(p * static_cast<double>(values)));
  const std::uint64_t rank = std::clamp<std::uint64_t>(wanted, 1, values);
  std::uint64_t seen = 0;
  std::size_t bucket = 0;
  while ((seen += counts_[bucket]) < rank) ++bucket;
  // The last bucket also counts what is larger than it.
  return bucket + 1 == kBuckets ? max_ : std::min(upper_bound(bucket), max_);
}

void Histogram::merge_into(Histogram& other) const noexcept {
  for (std::size_t bucket = 0; bucket < HistogramSnapshot::kBuckets; ++bucket) {
    const std::uint64_t count = counts_[bucket].load(std::memory_order_relaxed);
    if (count != 0) other.counts_[bucket].fetch_add(count, std::memory_order_relaxed);
  }
  other.sum_.fetch_add(sum_.load(std::memory_order_relaxed), std::memory_order_relaxed);
  other.raise_max(max_.load(std::memory_order_relaxed));
}

HistogramSnapshot Histogram::snapshot() const noexcept {
  HistogramSnapshot taken;
  for (std::size_t bucket = 0; bucket < HistogramSnapshot::kBuckets; ++bucket) {
    taken.counts_[bucket] = counts_[bucket].load(std::memory_order_relaxed);
  }
  taken.sum_ = sum_.load(std::memory_order_relaxed);
  taken.max_ = max_.load(std::memory_order_relaxed);
  return taken;
}

}  // namespace clipper
