// latency = alpha * rows + beta by least squares that forgets: the prior for batch sizes never run.
//
// Kept as weighted sums (recursive least squares in information form): unlike the covariance form
// it cannot wind up when all batches have one size; the slope is then simply the last one known.
// Samples are to be weighed by the inverse square of what was expected: relative errors count.
//
// add() only sums; solve() draws the line, so that it can be called once for many samples.
//
// Thread safety: one thread.
// Invariants: alpha >= 0, beta >= 0; at() is finite, and 0 only before the first sample.
#pragma once

#include <algorithm>

namespace clipper {

class LineFit {
 public:
  /// `weight`: the inverse square of what was expected, in 1/ns^2.
  void add(double rows, double latency_ns, double weight) noexcept {
    w_ = w_ * kForget + weight;
    wx_ = wx_ * kForget + weight * rows;
    wxx_ = wxx_ * kForget + weight * rows * rows;
    wy_ = wy_ * kForget + weight * latency_ns;
    wxy_ = wxy_ * kForget + weight * rows * latency_ns;
  }

  /// Everything takes `factor` times as long from now on; of what was learned only a little
  /// remains.
  void rescale(double factor) noexcept {
    factor = std::clamp(factor, kShortest / std::max(mean_ns_, kShortest),
                        kLongest / std::clamp(mean_ns_, kShortest, kLongest));
    const double keep = kKeep / (factor * factor);  // as if the old had been weighed by the new
    wy_ *= factor * keep;
    wxy_ *= factor * keep;
    w_ *= keep;
    wx_ *= keep;
    wxx_ *= keep;
    alpha_ *= factor;
    beta_ *= factor;
    solve();
  }

  void solve() noexcept {
    if (empty()) return;
    mean_rows_ = wx_ / w_;
    mean_ns_ = wy_ / w_;
    const double mean_square = wxx_ / w_;
    const double variance = mean_square - mean_rows_ * mean_rows_;
    if (variance > kLeastSpread * mean_square) {
      alpha_ = std::max((wxy_ / w_ - mean_rows_ * mean_ns_) / variance, 0.0);
      slope_known_ = true;
    }
    if (!slope_known_) return;
    // A negative intercept is no latency: the line then goes through the origin.
    alpha_ = std::min(alpha_, mean_ns_ / mean_rows_);
    beta_ = mean_ns_ - alpha_ * mean_rows_;
  }

  [[nodiscard]] bool empty() const noexcept { return w_ <= 0; }
  [[nodiscard]] double alpha() const noexcept { return alpha_; }
  [[nodiscard]] double beta() const noexcept { return beta_; }
  [[nodiscard]] bool slope_known() const noexcept { return slope_known_; }

  /// Before two sizes were seen: constant below the size seen, proportional above it, the two
  /// pessimistic readings.
  [[nodiscard]] double at(double rows) const noexcept {
    if (slope_known_) return alpha_ * rows + beta_;
    return rows <= mean_rows_ ? mean_ns_ : mean_ns_ * rows / mean_rows_;
  }

 private:
  static constexpr double kShortest = 1;  // a mean latency stays within these, in ns
  static constexpr double kLongest = 1e14;
  static constexpr double kForget = 0.99;
  static constexpr double kKeep = 0.05;
  static constexpr double kLeastSpread = 1e-3;  // variance of rows / their mean square

  double w_ = 0, wx_ = 0, wxx_ = 0, wy_ = 0, wxy_ = 0;
  double mean_rows_ = 1, mean_ns_ = 0;
  double alpha_ = 0, beta_ = 0;
  bool slope_known_ = false;
};

}  // namespace clipper
