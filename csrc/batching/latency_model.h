// What a batch of so many rows will take on one replica: an upper bound that nearly always holds,
// and the expectation. Learned from finished batches alone.
//
// Per bucket of sizes, the 0.99 quantile of the last runs, made monotone in the size and widened by
// a conformal margin; sizes never run borrow from a line fitted to all. A run far over the usual is
// taken for a preemption and teaches nothing; three of eight over their bounds, or six that look
// preempted, are a drift: the windows are forgotten and everything learned is scaled. The same
// happens downwards.
//
// Between bound and expectation lies what nine of ten runs keep to, by the spread of all sizes:
// where runs scatter, a bound that hardly any run exceeds says too little about the next one.
//
// Thread safety: observe() one thread at a time; everything else from any thread (a table of
// relaxed atomics: a reader may see two neighbouring buckets of different age, which is harmless).
// Invariants: bound_ns() is monotone in rows, and positive once anything was observed.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>

#include "base/clock.h"
#include "batching/conformal_margin.h"
#include "batching/line_fit.h"
#include "batching/row_buckets.h"
#include "batching/upper_window.h"

namespace clipper {

class LatencyModel {
 public:
  /// Runs after which the bounds may be trusted for refusing queries.
  static constexpr std::uint64_t kWarmRuns = 8;

  LatencyModel();

  /// A batch of `rows` took `latency_ns`. Values outside the sensible are clamped.
  void observe(std::uint32_t rows, Nanos latency_ns) noexcept;

  /// Upper bound; 0 before the first run.
  [[nodiscard]] Nanos bound_ns(std::uint32_t rows) const noexcept {
    return interpolate(rows, &Entry::bound_low, &Entry::bound_high);
  }

  /// The bound, or what nine of ten runs keep to where that lies far below it. 0 before the first
  /// run.
  [[nodiscard]] Nanos likely_ns(std::uint32_t rows) const noexcept {
    if (!is_scattered_.load(std::memory_order_relaxed)) return bound_ns(rows);
    return interpolate(rows, &Entry::likely_low, &Entry::likely_high);
  }

  /// Expectation; 0 before the first run.
  [[nodiscard]] Nanos expected_ns(std::uint32_t rows) const noexcept {
    return interpolate(rows, &Entry::mean_low, &Entry::mean_high);
  }

  /// The most rows whose bound is at most `limit_ns`; 0 if there are none or nothing is known.
  [[nodiscard]] std::uint32_t rows_within(Nanos limit_ns) const noexcept {
    return rows_within(limit_ns, &Entry::bound_low, &Entry::bound_high);
  }

  /// The same for likely_ns().
  [[nodiscard]] std::uint32_t rows_likely_within(Nanos limit_ns) const noexcept {
    if (!is_scattered_.load(std::memory_order_relaxed)) return rows_within(limit_ns);
    return rows_within(limit_ns, &Entry::likely_low, &Entry::likely_high);
  }

  /// The most rows it is prudent to run when `slack_ns` are left: four times the largest seen (1
  /// at the start), beyond that only where twice the extrapolated bound would fit.
  [[nodiscard]] std::uint32_t prudent_rows(std::uint32_t wanted, Nanos slack_ns) const noexcept;

  /// `rows`, or fewer where a batch of those and one of the rest are expected to cost less: beyond
  /// what a cache holds, larger batches are slower.
  [[nodiscard]] std::uint32_t economical_rows(std::uint32_t rows) const noexcept;

  /// Whether batches of two sizes have told what a further row costs.
  [[nodiscard]] bool knows_slope() const noexcept {
    return knows_slope_.load(std::memory_order_relaxed);
  }

  /// The largest batch that ever ran.
  [[nodiscard]] std::uint32_t largest_rows() const noexcept {
    return largest_rows_.load(std::memory_order_relaxed);
  }

  [[nodiscard]] std::uint64_t runs() const noexcept {
    return runs_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] bool is_warm() const noexcept { return runs() >= kWarmRuns; }
  [[nodiscard]] double margin() const noexcept {
    return shown_margin_.load(std::memory_order_relaxed);
  }

  /// Runs over the bound that held when they ended, since the start: for metrics.
  [[nodiscard]] std::uint64_t late_runs() const noexcept {
    return late_runs_.load(std::memory_order_relaxed);
  }

 private:
  using Cell =
      std::atomic<Nanos>;  // all accesses relaxed: values stand alone, nothing is published

  struct Entry {  // at the bucket's exclusive lower and inclusive upper edge
    Cell bound_low{0}, bound_high{0}, mean_low{0}, mean_high{0}, likely_low{0}, likely_high{0};
  };

  struct Bucket {
    UpperWindow window;  // of latencies carried over to the bucket's upper edge
    float mean_ns = 0;
    std::uint64_t last_run = 0;
  };

  using Uppers = std::array<double, row_buckets::kCount>;

  [[nodiscard]] Nanos interpolate(std::uint32_t rows, Cell Entry::*low,
                                  Cell Entry::*high) const noexcept {
    const RowBucket bucket = row_buckets::of(rows);
    const Entry& entry = table_[bucket.index];
    const Nanos at_high = (entry.*high).load(std::memory_order_relaxed);
    if (rows > row_buckets::kLargestRows) return at_high * (rows / row_buckets::kLargestRows + 1);
    if (bucket.width_log2 == 0) return at_high;
    const Nanos at_low = (entry.*low).load(std::memory_order_relaxed);
    return at_low + (((at_high - at_low) * (rows - bucket.low)) >> bucket.width_log2);
  }

  [[nodiscard]] bool is_known(const Bucket& bucket, std::uint64_t runs) const noexcept;
  void learn(const RowBucket& place, std::uint32_t rows, double latency_ns,
             double per_expected) noexcept;
  [[nodiscard]] bool is_publishing_due() const noexcept;
  double note_late(double ratio, bool preempted) noexcept;
  double note_early(const RowBucket& place, double ratio) noexcept;
  double start_over(double factor) noexcept;
  [[nodiscard]] Uppers uppers() const noexcept;
  [[nodiscard]] std::uint32_t rows_within(Nanos limit_ns, Cell Entry::*low,
                                          Cell Entry::*high) const noexcept;
  void learn_usual_spread() noexcept;
  void publish_likely() noexcept;
  void publish() noexcept;
  void raise_bounds(std::size_t index) noexcept;

  std::array<Entry, row_buckets::kCount> table_{};
  std::atomic<std::uint64_t> runs_{0};
  std::atomic<std::uint64_t> late_runs_{0};
  std::atomic<std::uint32_t> largest_rows_{0};
  std::atomic<bool> knows_slope_{false};
  std::atomic<std::uint32_t> cheapest_rows_{0};  // the size at which a row costs least; 0: unknown
  std::atomic<bool> is_scattered_{false};        // so that likely times lie far below the bounds
  std::atomic<double> shown_margin_{ConformalMargin::kStart};

  std::unique_ptr<std::array<Bucket, row_buckets::kCount>> buckets_;
  LineFit fit_;
  UpperWindow spread_;  // of latency / expectation, over all sizes
  ConformalMargin margin_;
  double usual_spread_ = std::numeric_limits<double>::infinity();
  std::array<double, 3> late_ratios_{1, 1, 1};
  std::uint32_t late_count_ = 0;
  std::uint32_t late_history_ = 0;  // one bit a run, 1: over its bound
  std::uint32_t early_streak_ = 0;
  double early_worst_ = 0;
  std::uint32_t unpublished_ = 0;
  std::uint32_t age_ = 0;  // runs since everything was learned anew, up to kGrownUp
};

}  // namespace clipper
