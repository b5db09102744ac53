// The line alpha * rows + beta below which 99 of 100 of the last 1,000 batches lie: linear quantile
// regression. Source: Koenker and Bassett, "Regression Quantiles", Econometrica 1978.
//
// Fitted exactly. For a given alpha the best beta is the 0.99 quantile of latency - alpha * rows,
// and the loss is convex in alpha, so that bisection on the sign of its slope finds the least:
// alpha is too small as long as the batches above the line are larger, in the mean, than all. A
// step is one pass that keeps the eleven largest residuals, a microsecond or so.
//
// Thread safety: one thread.
// Invariants: alpha() >= 0, beta() >= 0; what the line says grows with the rows.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace clipper {

class QuantileLine {
 public:
  static constexpr std::size_t kWindow = 1000;  // batches
  static constexpr std::size_t kOneIn = 100;    // so many, one lies above the line

  /// Notes a batch; the line is drawn anew now and then, rarely once there are many.
  void add(std::uint32_t rows, double latency_ns) noexcept;

  /// Draws it now. REQUIRES: !empty().
  void fit() noexcept;

  [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
  /// ns per row, and ns per batch.
  [[nodiscard]] double alpha() const noexcept { return alpha_; }
  [[nodiscard]] double beta() const noexcept { return beta_; }
  /// The most rows of any batch in the window when the line was drawn; 0: none.
  [[nodiscard]] std::uint32_t largest_rows() const noexcept { return largest_rows_; }

 private:
  static constexpr std::size_t kMostAbove = kWindow / kOneIn;

  struct Residuals;  // the largest, for one alpha

  void fit_through_origin() noexcept;
  [[nodiscard]] Residuals largest_residuals(double alpha) const noexcept;
  [[nodiscard]] bool is_too_flat(const Residuals& largest) const noexcept;

  std::array<float, kWindow> rows_{};
  std::array<float, kWindow> latency_ns_{};
  std::size_t count_ = 0;
  std::size_t next_ = 0;
  std::size_t unfitted_ = 0;
  double rows_sum_ = 0;
  double alpha_ = 0;
  double beta_ = 0;
  std::uint32_t largest_rows_ = 0;
};

}  // namespace clipper
