#include "batching/latency_model.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace clipper {
namespace {

constexpr Nanos kLongest = Nanos{1} << 44;  // ~5 h; times the largest bucket it still fits 63 bits
constexpr float kLongestMean = 2e13F;       // above kLongest: keeps floats finite
constexpr std::uint32_t kGrownUp = 1024;
constexpr std::uint32_t kFullTrust = 32;    // samples that make a bucket stand for itself
constexpr std::uint32_t kMeanOver = 32;     // runs over which a bucket's mean looks back
constexpr std::uint64_t kStaleRuns = 4096;  // a bucket not visited for so long is forgotten
constexpr double kSuspect = 2.0;            // this far over the usual a run looks preempted
constexpr std::uint32_t kDriftWindow = 8;   // drift: so many of so many runs over their bounds
constexpr int kDriftLate = 3;
constexpr int kDriftPreempted = 6;            // the same where most of them look preempted
constexpr float kQuiet = 1.05F;               // spread below which runs count as regular,
constexpr std::uint32_t kTellingRuns = 3;     // once there were so many
constexpr double kLikely = 0.9;               // share of the runs that likely_ns() covers
constexpr std::uint32_t kTellingSpread = 32;  // once there were so many,
constexpr double kScattered = 1.2;            // where the bound lies so far above the likely
constexpr double kEarly = 0.75;               // below this share of the expectation a run is early
constexpr double kFarTooEarly = 0.25;         // and below this share no noise explains it
constexpr std::uint32_t kEarlyStreak = 8;
constexpr std::uint32_t kEarlyStreakYoung = 2;  // the first runs often compile or page in
constexpr std::uint64_t kYoungRuns = 16;
constexpr std::uint32_t kEnoughToCompare = 4;  // samples that a size needs
constexpr Nanos kWorthSplitting = 40;  // by less than a fortieth two batches are not worth it
constexpr std::uint32_t kGrowth = 4;   // from the largest batch seen to the next

Nanos to_nanos(double value) noexcept {
  return static_cast<Nanos>(std::clamp(value, 1.0, static_cast<double>(kLongest)));
}

}  // namespace

LatencyModel::LatencyModel()
    : buckets_(std::make_unique<std::array<Bucket, row_buckets::kCount>>()) {}

void LatencyModel::observe(std::uint32_t rows, Nanos latency_ns) noexcept {
  rows = std::clamp(rows, 1U, row_buckets::kLargestRows);
  const auto latency = static_cast<double>(std::clamp(latency_ns, Nanos{1}, kLongest));
  const RowBucket place = row_buckets::of(rows);
  const std::uint64_t runs = runs_.load(std::memory_order_relaxed) + 1;
  runs_.store(runs, std::memory_order_relaxed);
  if (rows > largest_rows_.load(std::memory_order_relaxed)) {
    largest_rows_.store(rows, std::memory_order_relaxed);
  }

  const auto expected = static_cast<double>(expected_ns(rows));
  double per_expected = 1.0 / (expected > 0 ? expected : latency);
  bool raised = false;
  if (expected > 0) {
    const auto bound = static_cast<double>(bound_ns(rows));
    double ratio = latency * per_expected;
    raised = latency * margin_.factor() > bound * 1.01;
    late_history_ = (late_history_ << 1) & ((1U << kDriftWindow) - 1);
    const double usual = expected * usual_spread_ * usual_spread_;
    const bool preempted = latency > kSuspect * std::min(bound, usual);
    if (latency > bound || preempted) {
      const double factor = note_late(ratio, preempted);
      ratio /= factor;  // what this run teaches is measured by what holds now
      per_expected /= factor;
      if (late_history_ != 0 && preempted) return;  // else it was a drift after all
    } else {
      margin_.within_bound(spread_.count() >= kTellingRuns && spread_.upper() < kQuiet);
      const double factor = note_early(place, ratio);
      ratio /= factor;
      per_expected /= factor;
    }
    if (fit_.slope_known()) spread_.add(static_cast<float>(ratio));
  }
  learn(place, rows, latency, per_expected);
  if (is_publishing_due()) {
    publish();
  } else if (raised) {
    raise_bounds(place.index);
  }
}

/// Publishing costs a microsecond or two, so it grows rare as there is less news.
bool LatencyModel::is_publishing_due() const noexcept { return 8 * unpublished_ >= age_; }

/// Three late runs of eight are a drift; then late_history_ is empty again. A machine that is taken
/// away for some milliseconds, several times in a row, hits as many runs: what it does to them says
/// nothing of the model, and sizes that do not run meanwhile would keep it for ever.
double LatencyModel::note_late(double ratio, bool preempted) noexcept {
  late_runs_.store(late_runs_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  late_ratios_[late_count_++ % late_ratios_.size()] = ratio;
  late_history_ |= 1;
  early_streak_ = 0;
  auto sorted = late_ratios_;
  std::sort(sorted.begin(), sorted.end());
  if (std::popcount(late_history_) < (sorted[1] > kSuspect ? kDriftPreempted : kDriftLate)) {
    if (!preempted) margin_.over_bound();  // no margin would have covered that
    return 1.0;
  }
  return start_over(sorted[1]);
}

double LatencyModel::note_early(const RowBucket& place, double ratio) noexcept {
  const bool comparable = fit_.slope_known() || (*buckets_)[place.index].window.count() > 0;
  if (ratio >= kEarly || !comparable) {
    early_streak_ = 0;
    early_worst_ = 0;
    return 1.0;
  }
  early_worst_ = std::max(early_worst_, ratio);
  // A model that its bound shuts out is only probed now and then: it must be believed soon.
  early_streak_ += ratio < kFarTooEarly ? kEarlyStreak / 2 : 1;
  const bool young = runs_.load(std::memory_order_relaxed) <= kYoungRuns;
  if (early_streak_ < (young ? kEarlyStreakYoung : kEarlyStreak)) return 1.0;
  return start_over(early_worst_);
}

/// The past holds only after scaling: everything now takes `factor` times as long.
double LatencyModel::start_over(double factor) noexcept {
  for (Bucket& bucket : *buckets_) {
    bucket.window.clear();
    bucket.mean_ns = std::min(bucket.mean_ns * static_cast<float>(factor), kLongestMean);
  }
  spread_.clear();
  fit_.rescale(factor);
  margin_.be_cautious(std::max(std::popcount(late_history_) - 1, 0));
  late_history_ = 0;
  early_streak_ = 0;
  early_worst_ = 0;
  age_ = 0;
  return factor;
}

void LatencyModel::learn(const RowBucket& place, std::uint32_t rows, double latency_ns,
                         double per_expected) noexcept {
  fit_.add(rows, latency_ns, per_expected * per_expected);
  double at_high = latency_ns;
  if (rows != place.high()) {
    const Nanos mean_high = table_[place.index].mean_high.load(std::memory_order_relaxed);
    at_high *= fit_.slope_known() ? static_cast<double>(mean_high) * per_expected
                                  : static_cast<double>(place.high()) / rows;
  }
  Bucket& bucket = (*buckets_)[place.index];
  bucket.window.add(static_cast<float>(at_high));
  bucket.last_run = runs_.load(std::memory_order_relaxed);
  const std::uint32_t over = std::min(bucket.window.count(), kMeanOver);
  bucket.mean_ns += (static_cast<float>(at_high) - bucket.mean_ns) / static_cast<float>(over);
  age_ = std::min(age_ + 1, kGrownUp);
  ++unpublished_;
}

bool LatencyModel::is_known(const Bucket& bucket, std::uint64_t runs) const noexcept {
  return bucket.window.count() > 0 && runs - bucket.last_run < kStaleRuns;
}

/// The unwidened upper quantile of each bucket at its upper edge.
LatencyModel::Uppers LatencyModel::uppers() const noexcept {
  Uppers uppers{};
  const std::uint64_t runs = runs_.load(std::memory_order_relaxed);
  const double spread = std::max(1.0, static_cast<double>(spread_.upper()));
  double ceiling = std::numeric_limits<double>::max();
  for (std::size_t i = row_buckets::kCount; i-- > 0;) {
    const Bucket& bucket = (*buckets_)[i];
    double upper = fit_.at(row_buckets::at(i).high()) * spread;
    bool fresh = false;
    if (is_known(bucket, runs)) {
      fresh = runs - bucket.last_run < UpperWindow::kLength;
      upper = static_cast<double>(bucket.window.upper());
      if (bucket.window.count() < kFullTrust) {
        upper = std::max(upper, static_cast<double>(bucket.mean_ns) * spread);
      } else if (fresh) {
        ceiling = std::min(ceiling, upper);
      }
    }
    // What small batches took long ago, or would by the line, cannot exceed what larger ones take.
    if (!fresh) upper = std::min(upper, ceiling);
    uppers[i] = upper;
  }
  return uppers;
}

/// What nine of ten runs keep to, over the expectation. While little was seen nothing is unusual.
void LatencyModel::learn_usual_spread() noexcept {
  usual_spread_ = spread_.count() < kTellingSpread
                      ? std::numeric_limits<double>::infinity()
                      : std::max(1.0, static_cast<double>(spread_.quantile(kLikely)));
}

/// Where runs hardly scatter the bound costs next to nothing, and keeping to it makes lateness
/// rare: then it stands for the likely time, too.
void LatencyModel::publish_likely() noexcept {
  learn_usual_spread();
  const double upper = static_cast<double>(spread_.upper()) * margin_.factor();
  const bool is_scattered = upper > kScattered * usual_spread_;
  if (is_scattered) {
    Nanos highest = 0;
    for (Entry& entry : table_) {
      const auto likely = [&](const Cell& mean, const Cell& bound) {
        const auto mean_ns = static_cast<double>(mean.load(std::memory_order_relaxed));
        const Nanos within = to_nanos(mean_ns * usual_spread_);
        return std::max(std::min(within, bound.load(std::memory_order_relaxed)), highest);
      };
      entry.likely_low.store(likely(entry.mean_low, entry.bound_low), std::memory_order_relaxed);
      highest = likely(entry.mean_high, entry.bound_high);
      entry.likely_high.store(highest, std::memory_order_relaxed);
    }
  }
  is_scattered_.store(is_scattered, std::memory_order_relaxed);
}

void LatencyModel::publish() noexcept {
  unpublished_ = 0;
  fit_.solve();
  const double margin = margin_.factor();
  shown_margin_.store(margin, std::memory_order_relaxed);
  knows_slope_.store(fit_.slope_known(), std::memory_order_relaxed);
  const std::uint64_t runs = runs_.load(std::memory_order_relaxed);
  const Uppers upper = uppers();
  double highest = 0;
  double least_per_row = std::numeric_limits<double>::max();
  std::uint32_t cheapest = 0;
  for (std::size_t i = 0; i < row_buckets::kCount; ++i) {
    const RowBucket place = row_buckets::at(i);
    const Bucket& bucket = (*buckets_)[i];
    const double fitted = std::max(fit_.at(place.high()), 1.0);
    const double to_low = fit_.at(place.low) / fitted;
    const double mean = is_known(bucket, runs) ? static_cast<double>(bucket.mean_ns) : fitted;
    Entry& entry = table_[i];
    entry.mean_low.store(to_nanos(mean * to_low), std::memory_order_relaxed);
    entry.mean_high.store(to_nanos(mean), std::memory_order_relaxed);
    if (bucket.window.count() >= kEnoughToCompare && is_known(bucket, runs) &&
        mean / place.high() < least_per_row) {
      least_per_row = mean / place.high();
      cheapest = place.high();
    }
    const double bound = upper[i] * margin;
    entry.bound_low.store(to_nanos(std::max(bound * to_low, highest)), std::memory_order_relaxed);
    highest = std::max(highest, bound);
    entry.bound_high.store(to_nanos(highest), std::memory_order_relaxed);
  }
  cheapest_rows_.store(cheapest, std::memory_order_relaxed);
  publish_likely();
}

/// A run above the quantile counts at once: it lifts its own bucket and those above that lie lower.
void LatencyModel::raise_bounds(std::size_t index) noexcept {
  const auto upper = static_cast<double>((*buckets_)[index].window.upper());
  const Nanos bound = to_nanos(upper * margin_.factor());
  for (std::size_t i = index; i < row_buckets::kCount; ++i) {
    Entry& entry = table_[i];
    const Nanos high = entry.bound_high.load(std::memory_order_relaxed);
    if (high >= bound) return;
    const Nanos low = entry.bound_low.load(std::memory_order_relaxed);
    entry.bound_low.store(i == index ? std::min(low + (bound - high), bound) : bound,
                          std::memory_order_relaxed);
    entry.bound_high.store(bound, std::memory_order_relaxed);
  }
}

std::uint32_t LatencyModel::rows_within(Nanos limit_ns, Cell Entry::*low_edge,
                                        Cell Entry::*high_edge) const noexcept {
  std::size_t below = 0;  // buckets whose upper edge fits
  for (std::size_t end = row_buckets::kCount; below < end;) {
    const std::size_t middle = (below + end) / 2;
    const Nanos bound = (table_[middle].*high_edge).load(std::memory_order_relaxed);
    if (bound == 0) return 0;
    if (bound <= limit_ns) {
      below = middle + 1;
    } else {
      end = middle;
    }
  }
  if (below == row_buckets::kCount) return row_buckets::kLargestRows;
  const RowBucket place = row_buckets::at(below);
  const Nanos low = (table_[below].*low_edge).load(std::memory_order_relaxed);
  const Nanos high = (table_[below].*high_edge).load(std::memory_order_relaxed);
  if (place.width_log2 == 0 || limit_ns < low || high <= low) return place.low;
  const Nanos beyond = ((limit_ns - low) << place.width_log2) / (high - low);
  return place.low + static_cast<std::uint32_t>(beyond);
}

std::uint32_t LatencyModel::economical_rows(std::uint32_t rows) const noexcept {
  const std::uint32_t cheapest = cheapest_rows_.load(std::memory_order_relaxed);
  if (cheapest == 0 || rows <= cheapest) return rows;
  const Nanos split = saturating_add(expected_ns(cheapest), expected_ns(rows - cheapest));
  return split < expected_ns(rows) - expected_ns(rows) / kWorthSplitting ? cheapest : rows;
}

std::uint32_t LatencyModel::prudent_rows(std::uint32_t wanted, Nanos slack_ns) const noexcept {
  const std::uint32_t seen = largest_rows_.load(std::memory_order_relaxed);
  const std::uint32_t tried = seen == 0 ? 1 : kGrowth * seen;
  if (wanted <= tried) return wanted;
  return std::max(tried, std::min(wanted, rows_within(slack_ns / 2)));
}

}  // namespace clipper
