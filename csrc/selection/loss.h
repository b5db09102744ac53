// How far a model's output is from what a caller says is right: a number from 0 (right) to 1.
//
// Thread safety: immutable.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/output_layout.h"
#include "base/tensor.h"

namespace clipper {

enum class LossKind : std::uint8_t {
  kZeroOne,   ///< 0 if the output is the label, else 1
  kAbsolute,  ///< mean of |output - label| over the elements, over the scale
  kSquared,   ///< mean of (output - label)^2 over the elements, over the scale squared
  kLog,       ///< -ln of the probability that the output gives the label, over the scale
};

/// What is right for some rows, one entry each; exactly one of the two.
struct Labels {
  const ColumnRows* rows = nullptr;       ///< as rows of the model's output
  const std::int64_t* classes = nullptr;  ///< as places in the output's only axis
};

class Loss {
 public:
  Loss() = default;
  /// `output`: what a row looks like. Throws kInvalidArgument unless the scale is positive and the
  /// loss is defined for such rows: all but zero-one need one tensor of fixed shape of real
  /// numbers, log loss one of floating point and at most one axis.
  Loss(LossKind kind, double scale, const RowSpec& output);

  /// How many classes an output tells apart; 0: labels are rows of the output, never classes.
  [[nodiscard]] std::int64_t classes() const noexcept { return classes_; }

  /// The loss of one row of outputs against label `place`, in [0, 1]; above 1 counts as 1, and so
  /// does what is no number.
  [[nodiscard]] float of(const std::byte* output, const OutputLayout& layout, const Labels& labels,
                         std::uint32_t place) const noexcept;

 private:
  [[nodiscard]] bool equals(const std::byte* output, const OutputLayout& layout,
                            const ColumnRows* label, std::uint32_t place) const noexcept;
  [[nodiscard]] double mean_distance(const std::byte* output, const std::byte* label,
                                     bool squared) const noexcept;
  [[nodiscard]] double log_loss(const std::byte* output, const Labels& labels,
                                std::uint32_t place) const noexcept;
  [[nodiscard]] std::int64_t largest(const std::byte* output) const noexcept;

  LossKind kind_ = LossKind::kZeroOne;
  double scale_ = 1.0;
  DType dtype_;               // of the only tensor, where there is one
  std::size_t elements_ = 0;  // of it; 0: several tensors, or a ragged one
  std::int64_t classes_ = 0;
};

}  // namespace clipper
