// latency = alpha * rows + beta by least squares that forgets: the prior for batch sizes never run.
//
// Kept as weighted sums (recursive least squares in information form), one set for each octave of
// sizes, which forgets only when a sample of that octave comes. With one set for all, a while of
// single rows leaves nothing of what large batches took, and the slope is drawn from the noise
// between one row and two.
// Samples are to be weighed by the inverse square of what was expected: relative errors count.
//
// add() only sums; solve() draws the line, so that it can be called once for many samples.
//
// Thread safety: one thread.
// Invariants: alpha >= 0, beta >= 0; at() is finite, and 0 only before the first sample.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

namespace clipper {

class LineFit {
 public:
  /// `weight`: the inverse square of what was expected, in 1/ns^2.
  void add(double rows, double latency_ns, double weight) noexcept {
    Sums& sums = octaves_[static_cast<std::size_t>(std::clamp(std::ilogb(rows), 0, kOctaves - 1))];
    sums.scale(kForget, 1);
    sums.w += weight;
    sums.wx += weight * rows;
    sums.wxx += weight * rows * rows;
    sums.wy += weight * latency_ns;
    sums.wxy += weight * rows * latency_ns;
  }

  /// Everything takes `factor` times as long from now on.
  void rescale(double factor) noexcept {
    factor = std::clamp(factor, kShortest / std::max(mean_ns_, kShortest),
                        kLongest / std::clamp(mean_ns_, kShortest, kLongest));
    // As if the old had been weighed by the new.
    for (Sums& sums : octaves_) sums.scale(1 / (factor * factor), factor);
    alpha_ *= factor;
    beta_ *= factor;
    solve();
  }

  void solve() noexcept {
    Sums all;
    for (const Sums& sums : octaves_) all.add(sums);
    if (all.w <= 0) return;
    mean_rows_ = all.wx / all.w;
    mean_ns_ = all.wy / all.w;
    const double mean_square = all.wxx / all.w;
    const double variance = mean_square - mean_rows_ * mean_rows_;
    if (variance > kLeastSpread * mean_square) {
      alpha_ = std::max((all.wxy / all.w - mean_rows_ * mean_ns_) / variance, 0.0);
      slope_known_ = true;
    }
    if (!slope_known_) return;
    // A negative intercept is no latency: the line then goes through the origin.
    alpha_ = std::min(alpha_, mean_ns_ / mean_rows_);
    beta_ = mean_ns_ - alpha_ * mean_rows_;
  }

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
  struct Sums {
    double w = 0, wx = 0, wxx = 0, wy = 0, wxy = 0;

    void scale(double weights, double latencies) noexcept {
      w *= weights;
      wx *= weights;
      wxx *= weights;
      wy *= weights * latencies;
      wxy *= weights * latencies;
    }
    void add(const Sums& other) noexcept {
      w += other.w;
      wx += other.wx;
      wxx += other.wxx;
      wy += other.wy;
      wxy += other.wxy;
    }
  };

  static constexpr int kOctaves = 21;
  static constexpr double kShortest = 1;  // a mean latency stays within these, in ns
  static constexpr double kLongest = 1e14;
  static constexpr double kForget = 0.99;
  static constexpr double kLeastSpread = 1e-3;  // variance of rows / their mean square

  std::array<Sums, kOctaves> octaves_{};
  double mean_rows_ = 1, mean_ns_ = 0;
  double alpha_ = 0, beta_ = 0;
  bool slope_known_ = false;
};

}  // namespace clipper
