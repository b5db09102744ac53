// How the answers of several models become one, by weights: a vote or a mean.
//
// A vote compares rows by their bytes; the row with the most weight behind it is given as it is,
// among equals that of the model listed first. Its confidence is the share of that weight among the
// weights of all models asked, so a model that is missing costs confidence.
// A mean is taken of each number of floating-point rows. Its confidence is the share of the weight,
// again of all asked, of those models whose largest number in the first tensor is where the mean
// has its largest; where that tensor is a single number, the share of the models that answered. A
// row that holds a number which is not finite has no part in the mean, as if it were missing.
//
// Source: Crankshaw et al., "Clipper", NSDI 2017, section 5.2; Exp4's y = sum(s_i y_i) / sum(s).
// Thread safety: immutable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/output_layout.h"
#include "base/tensor.h"
#include "selection/policy.h"

namespace clipper {

class Ballot {
 public:
  /// A vote.
  Ballot() = default;
  /// takes_mean: of the rows that `spec` describes. Throws kInvalidArgument unless all its tensors
  /// are of fixed shape and float32 or float64.
  Ballot(const RowSpec& spec, bool takes_mean);

  [[nodiscard]] static bool can_take_mean(const RowSpec& spec) noexcept;

  /// weights: one for each model, by its place in the application's list; >= 0.
  [[nodiscard]] Combined count(std::span<const Answer> answers, std::span<const double> weights,
                               const OutputLayout& layout, std::byte* output) const noexcept;

  /// Whether two rows say the same: equal bytes, or for means their largest number in one place.
  [[nodiscard]] bool agree(const OutputLayout& layout, const std::byte* a,
                           const std::byte* b) const noexcept;

 private:
  struct Numbers {
    std::size_t elements = 0;
    std::uint8_t bits = 32;
  };

  [[nodiscard]] Combined vote(std::span<const Answer> answers, std::span<const double> weights,
                              const OutputLayout& layout) const noexcept;
  [[nodiscard]] Combined mean(std::span<const Answer> answers, std::span<const double> weights,
                              const OutputLayout& layout, std::byte* output) const noexcept;
  [[nodiscard]] bool is_finite(const OutputLayout& layout, const std::byte* row) const noexcept;
  [[nodiscard]] std::size_t largest(const OutputLayout& layout,
                                    const std::byte* row) const noexcept;

  std::vector<Numbers> columns_;  // empty: it votes
};

}  // namespace clipper
