#include "batching/quantile_line.h"

#include <algorithm>

namespace clipper {
namespace {

// Batches after which the line is drawn anew: a sixteenth of those there are, at most so many.
constexpr std::size_t kFitEvery = 50;
constexpr std::size_t kFitShare = 16;
constexpr int kSteps = 40;  // of the bisection: to a 10^-12 part of the steepest slope there can be

}  // namespace

/// In descending order. The last one lies on the line, those before it above.
struct QuantileLine::Residuals {
  struct One {
    float ns;
    float rows;
  };
  std::array<One, kMostAbove + 1> ones;
  std::size_t count = 0;

  [[nodiscard]] const One& on_the_line() const noexcept { return ones[count - 1]; }

  void offer(const One& one, std::size_t most) noexcept {
    if (count == most) {
      if (one.ns <= ones[count - 1].ns) return;
      --count;
    }
    std::size_t at = count++;
    for (; at > 0 && ones[at - 1].ns < one.ns; --at) ones[at] = ones[at - 1];
    ones[at] = one;
  }
};

void QuantileLine::add(std::uint32_t rows, double latency_ns) noexcept {
  if (count_ == kWindow) {
    rows_sum_ -= static_cast<double>(rows_[next_]);
  } else {
    ++count_;
  }
  rows_[next_] = static_cast<float>(rows);
  latency_ns_[next_] = static_cast<float>(latency_ns);
  rows_sum_ += static_cast<double>(rows_[next_]);
  next_ = (next_ + 1) % kWindow;
  if (++unfitted_ < std::min(kFitEvery, count_ / kFitShare)) return;
  unfitted_ = 0;
  fit();
}

void QuantileLine::fit() noexcept {
  const auto sizes = std::minmax_element(rows_.begin(), rows_.begin() + count_);
  largest_rows_ = static_cast<std::uint32_t>(*sizes.second);
  if (*sizes.first == *sizes.second) return fit_through_origin();
  double low = 0;
  double high = *std::max_element(latency_ns_.begin(), latency_ns_.begin() + count_);
  for (int step = 0; step < kSteps; ++step) {
    const double middle = (low + high) / 2;
    (is_too_flat(largest_residuals(middle)) ? low : high) = middle;
  }
  alpha_ = high;
  beta_ = static_cast<double>(largest_residuals(alpha_).on_the_line().ns);
  if (beta_ < 0) fit_through_origin();  // no latency is negative
}

/// The line through the origin below which the same share lies: with one size alone, the cautious
/// reading of what larger ones take.
void QuantileLine::fit_through_origin() noexcept {
  std::array<float, kMostAbove + 1> largest{};
  const std::size_t kept = count_ / kOneIn + 1;
  for (std::size_t i = 0; i < count_; ++i) {
    float slope = latency_ns_[i] / rows_[i];
    for (std::size_t at = 0; at < kept; ++at) {
      if (slope > largest[at]) std::swap(slope, largest[at]);
    }
  }
  alpha_ = static_cast<double>(largest[kept - 1]);
  beta_ = 0;
}

QuantileLine::Residuals QuantileLine::largest_residuals(double alpha) const noexcept {
  Residuals largest;
  const std::size_t most = count_ / kOneIn + 1;
  for (std::size_t i = 0; i < count_; ++i) {
    const double above =
        static_cast<double>(latency_ns_[i]) - alpha * static_cast<double>(rows_[i]);
    largest.offer({static_cast<float>(above), rows_[i]}, most);
  }
  return largest;
}

/// The sign of the loss's slope: at its least, what lies above the line balances the share of it
/// that is due, with the batch on the line in between.
bool QuantileLine::is_too_flat(const Residuals& largest) const noexcept {
  double above = 0;
  for (std::size_t i = 0; i + 1 < largest.count; ++i) {
    above += static_cast<double>(largest.ones[i].rows);
  }
  const double due = static_cast<double>(count_) / kOneIn;
  const auto balance = due - static_cast<double>(largest.count - 1);
  return above + balance * static_cast<double>(largest.on_the_line().rows) >
         rows_sum_ / static_cast<double>(kOneIn);
}

}  // namespace clipper
