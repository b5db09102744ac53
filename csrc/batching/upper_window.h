// An upper quantile over the last 128 samples.
//
// It is the largest sample after setting aside the n / 100 largest: the 0.99 quantile of a full
// window ignores its single worst sample, a young window believes all it has.
//
// Thread safety: one thread.
// Invariants: upper() is never below the true quantile of the window, and is made exact again every
// kRescanEvery samples; in between it may still remember a sample that has just left.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace clipper {

class UpperWindow {
 public:
  static constexpr std::uint32_t kLength = 128;

  void add(float sample) noexcept {
    samples_[next_ % kLength] = sample;
    ++next_;
    count_ = std::min(count_ + 1, kLength);
    if (sample > second_) {
      second_ = std::min(sample, first_);
      first_ = std::max(sample, first_);
    }
    if (next_ % kRescanEvery == 0) rescan();
  }

  void clear() noexcept { *this = UpperWindow{}; }

  [[nodiscard]] std::uint32_t count() const noexcept { return count_; }

  /// The smallest sample that at least `share` of the samples do not exceed; 0 when empty.
  [[nodiscard]] float quantile(double share) const noexcept {
    if (count_ == 0) return 0;
    std::array<float, kLength> sorted = samples_;
    const auto rank = static_cast<std::ptrdiff_t>(share * (count_ - 1) + 0.5);
    std::nth_element(sorted.begin(), sorted.begin() + rank, sorted.begin() + count_);
    return sorted[static_cast<std::size_t>(rank)];
  }

  /// 0 when empty.
  [[nodiscard]] float upper() const noexcept { return count_ < 100 ? first_ : second_; }

 private:
  static constexpr std::uint32_t kRescanEvery = 32;

  /// Four lanes, because one would wait for itself at every step. Unused places hold 0.
  void rescan() noexcept {
    std::array<float, 4> first{};
    std::array<float, 4> second{};
    for (std::uint32_t i = 0; i < kLength; i += 4) {
      for (std::uint32_t lane = 0; lane < 4; ++lane) {
        const float sample = samples_[i + lane];
        second[lane] = std::max(second[lane], std::min(first[lane], sample));
        first[lane] = std::max(first[lane], sample);
      }
    }
    first_ = second_ = 0;
    for (std::uint32_t lane = 0; lane < 4; ++lane) {
      second_ = std::max({second_, second[lane], std::min(first_, first[lane])});
      first_ = std::max(first_, first[lane]);
    }
  }

  std::array<float, kLength> samples_{};
  std::uint32_t count_ = 0;
  std::uint32_t next_ = 0;
  float first_ = 0;
  float second_ = 0;
};

}  // namespace clipper
