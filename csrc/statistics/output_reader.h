// What the statistics read off a row of outputs: a label, a number, or both.
//
//   integer or bool scalar    its label
//   float scalar              its value
//   vector of floats          the place of the largest is its label, the largest its value
//
// Of several tensors the first that is one of these is read; of other rows nothing.
//
// Thread safety: all of it; constant.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/tensor.h"

namespace clipper {

enum class OutputKind : std::uint8_t { kNothing, kLabels, kValues, kScores };

class OutputReader {
 public:
  /// Longer vectors are not looked at.
  static constexpr std::size_t kLongest = 16'384;

  struct Read {
    std::int64_t label = 0;
    double value = 0.0;
  };

  explicit OutputReader(const RowSpec& output);

  [[nodiscard]] OutputKind kind() const noexcept { return kind_; }
  [[nodiscard]] bool has_labels() const noexcept {
    return kind_ == OutputKind::kLabels || kind_ == OutputKind::kScores;
  }
  [[nodiscard]] bool has_values() const noexcept {
    return kind_ == OutputKind::kValues || kind_ == OutputKind::kScores;
  }
  /// Which column it reads.
  [[nodiscard]] std::size_t column() const noexcept { return column_; }
  [[nodiscard]] bool is_unsigned() const noexcept { return dtype_.code == DTypeCode::kUInt; }
  /// Numbers looked at for one row.
  [[nodiscard]] std::size_t width() const noexcept { return width_; }

  /// REQUIRES: kind() is not kNothing; `rows` are outputs column by column, with one `row` at
  /// least.
  [[nodiscard]] Read read(const ColumnRows* rows, std::uint32_t row) const noexcept;

 private:
  [[nodiscard]] static OutputKind kind_of(const TensorSpec& tensor) noexcept;

  OutputKind kind_ = OutputKind::kNothing;
  std::size_t column_ = 0;
  std::size_t width_ = 1;
  DType dtype_;
};

}  // namespace clipper
