#include "selection/loss.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/element.h"
#include "base/errors.h"

namespace clipper {

Loss::Loss(LossKind kind, double scale, const RowSpec& output) : kind_(kind), scale_(scale) {
  if (!(scale > 0.0) || !std::isfinite(scale)) {
    throw Error(ErrorCode::kInvalidArgument, "the scale of a loss must be finite and above 0");
  }
  const bool is_one_tensor = output.is_plain() && is_real(output.columns[0].dtype);
  if (is_one_tensor) {
    const TensorSpec& tensor = output.columns[0];
    dtype_ = tensor.dtype;
    elements_ = tensor.elements();
    const bool is_float = dtype_.code == DTypeCode::kFloat || dtype_.code == DTypeCode::kBfloat;
    const bool has_classes = kind == LossKind::kZeroOne || kind == LossKind::kLog;
    if (has_classes && is_float && tensor.shape.size() == 1 && elements_ > 1) {
      classes_ = static_cast<std::int64_t>(elements_);
    }
    // A single probability is that of class 1.
    if (kind == LossKind::kLog && is_float && elements_ == 1) classes_ = 2;
  }
  if (kind != LossKind::kZeroOne && !is_one_tensor) {
    throw Error(ErrorCode::kInvalidArgument,
                "this loss needs outputs of one tensor of fixed shape and real numbers");
  }
  if (kind == LossKind::kLog && classes_ == 0) {
    throw Error(ErrorCode::kInvalidArgument,
                "log loss needs outputs that are probabilities: floating point, one axis at most");
  }
}

float Loss::of(const std::byte* output, const OutputLayout& layout, const Labels& labels,
               std::uint32_t place) const noexcept {
  double loss = 1.0;
  switch (kind_) {
    case LossKind::kZeroOne: {
      const bool is_right = labels.classes != nullptr ? largest(output) == labels.classes[place]
                                                      : equals(output, layout, labels.rows, place);
      loss = is_right ? 0.0 : 1.0;
      break;
    }
    case LossKind::kAbsolute:
    case LossKind::kSquared: {
      const bool squared = kind_ == LossKind::kSquared;
      const std::byte* label = labels.rows->data + place * elements_ * dtype_.bytes();
      loss = mean_distance(output, label, squared) / (squared ? scale_ * scale_ : scale_);
      break;
    }
    case LossKind::kLog:
      loss = log_loss(output, labels, place) / scale_;
      break;
  }
  return loss >= 0.0 && loss <= 1.0 ? static_cast<float>(loss) : 1.0F;  // NaN is as bad as can be
}

bool Loss::equals(const std::byte* output, const OutputLayout& layout, const ColumnRows* label,
                  std::uint32_t place) const noexcept {
  if (elements_ > 0) {  // by value: there are two zeros
    if (std::memcmp(output, label->data + place * layout.row_bytes(), layout.row_bytes()) == 0) {
      return true;
    }
    const bool is_float = dtype_.code == DTypeCode::kFloat || dtype_.code == DTypeCode::kBfloat;
    return is_float &&
           mean_distance(output, label->data + place * layout.row_bytes(), false) == 0.0;
  }
  const auto& columns = layout.columns();
  for (std::size_t c = 0; c < columns.size(); ++c) {
    const OutputLayout::Column& column = columns[c];
    const std::byte* values = output + column.offset;
    const std::byte* wanted = label[c].data + place * column.item_bytes;
    std::size_t bytes = column.item_bytes;
    if (column.ragged) {
      const RaggedCell& cell = OutputLayout::cell(output, column);
      const std::int64_t begin = label[c].begin_of(place);
      if (cell.items != label[c].begin_of(place + 1) - begin) return false;
      values = cell.data;
      wanted = label[c].data + static_cast<std::size_t>(begin) * column.item_bytes;
      bytes = static_cast<std::size_t>(cell.items) * column.item_bytes;
    }
    if (bytes > 0 && std::memcmp(values, wanted, bytes) != 0) return false;
  }
  return true;
}

double Loss::mean_distance(const std::byte* output, const std::byte* label,
                           bool squared) const noexcept {
  double sum = 0.0;
  for (std::size_t i = 0; i < elements_; ++i) {
    const double distance = std::abs(element_of(output, dtype_, i) - element_of(label, dtype_, i));
    sum += squared ? distance * distance : distance;
  }
  return sum / static_cast<double>(elements_);
}

double Loss::log_loss(const std::byte* output, const Labels& labels,
                      std::uint32_t place) const noexcept {
  const auto right = static_cast<std::size_t>(labels.classes[place]);
  double probability = 0.0;
  if (elements_ == 1) {
    const double of_one = element_of(output, dtype_, 0);
    probability = right == 1 ? of_one : 1.0 - of_one;
  } else {
    probability = element_of(output, dtype_, right);
  }
  // Rounding makes a little more than 1 of a softmax; what is far off is no probability.
  constexpr double kRounding = 0.01;
  if (probability > 1.0 && probability < 1.0 + kRounding) return 0.0;
  return probability > 1.0 ? HUGE_VAL : -std::log(probability);
}

std::int64_t Loss::largest(const std::byte* output) const noexcept {
  std::size_t best = 0;
  double most = element_of(output, dtype_, 0);
  for (std::size_t i = 1; i < elements_; ++i) {
    const double value = element_of(output, dtype_, i);
    if (value > most || std::isnan(most)) {
      most = value;
      best = i;
    }
  }
  return std::isnan(most) ? -1 : static_cast<std::int64_t>(best);
}

}  // namespace clipper
