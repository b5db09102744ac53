// The Page-Hinkley test for a rise of a stream's mean: sums how far each value lies above the mean
// so far and a tolerance, and says so when the sum has risen by a threshold above its lowest point
// (Page, "Continuous inspection schemes", 1954; Hinkley, "Inference about the change-point from
// cumulative sum tests", 1971).
//
// For values in [0, 1], whose variance is 1/4 at most, the sum wanders above a threshold h by
// chance once in about e^(8 * tolerance * h) / (8 * tolerance^2) values: 4 * 10^8 at the worst. A
// rise by r is found after about h / (r - tolerance).
//
// Thread safety: none.
#pragma once

#include <algorithm>
#include <cstdint>

namespace clipper {

class PageHinkley {
 public:
  static constexpr double kTolerance = 0.05;
  static constexpr double kThreshold = 40.0;
  static constexpr std::uint64_t kWarmUp = 500;  ///< values before the mean can be relied on

  /// True: with this value the mean has risen. Says so once, until reset().
  [[nodiscard]] bool add(double value) noexcept {
    ++count_;
    mean_ += (value - mean_) / static_cast<double>(count_);
    if (count_ <= kWarmUp || has_risen_) return false;
    sum_ += value - mean_ - kTolerance;
    lowest_ = std::min(lowest_, sum_);
    has_risen_ = sum_ - lowest_ > kThreshold;
    return has_risen_;
  }
  [[nodiscard]] bool has_risen() const noexcept { return has_risen_; }
  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  [[nodiscard]] double mean() const noexcept { return mean_; }
  void reset() noexcept { *this = PageHinkley(); }

 private:
  std::uint64_t count_ = 0;
  double mean_ = 0.0;
  double sum_ = 0.0;
  double lowest_ = 0.0;
  bool has_risen_ = false;
};

}  // namespace clipper
