#include "statistics/output_reader.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace clipper {
namespace {

template <typename Number>
Number load(const std::byte* at) noexcept {
  Number number;
  std::memcpy(&number, at, sizeof number);
  return number;
}

/// IEEE 754's 16 bits: sign, 5 of the exponent, 10 of the fraction.
double of_half(std::uint16_t bits) noexcept {
  const int exponent = (bits >> 10) & 0x1f;
  const int fraction = bits & 0x3ff;
  double size = 0.0;
  if (exponent == 0x1f) {
    size = fraction == 0 ? std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    size = std::ldexp(fraction, -24);
  } else {
    size = std::ldexp(fraction + 0x400, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -size : size;
}

double of_bfloat(std::uint16_t bits) noexcept {
  return static_cast<double>(std::bit_cast<float>(std::uint32_t{bits} << 16));
}

/// Calls `use` with a function that reads the i-th float from `at`.
template <typename Use>
auto with_floats(const std::byte* at, const DType& dtype, Use&& use) noexcept {
  if (dtype.code == DTypeCode::kBfloat) {
    return use([=](std::size_t i) { return of_bfloat(load<std::uint16_t>(at + 2 * i)); });
  }
  if (dtype.bits == 16) {
    return use([=](std::size_t i) { return of_half(load<std::uint16_t>(at + 2 * i)); });
  }
  if (dtype.bits == 32) {
    return use([=](std::size_t i) { return load<float>(at + 4 * i); });
  }
  return use([=](std::size_t i) { return load<double>(at + 8 * i); });
}

/// The first of the largest, and where it is. What is no number is smaller than any.
template <typename Numbers>
OutputReader::Read largest_of(Numbers&& number, std::size_t count) noexcept {
  using Number = decltype(number(0));
  constexpr std::size_t kLanes = 16;  // side by side, or each comparison waits for the one before
  constexpr Number kLeast = -std::numeric_limits<Number>::infinity();
  std::array<Number, kLanes> most;
  most.fill(kLeast);
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const Number one = number(i + lane);
      most[lane] = one > most[lane] ? one : most[lane];
    }
  }
  Number largest = kLeast;
  for (; i < count; ++i) largest = number(i) > largest ? number(i) : largest;
  for (const Number one : most) largest = one > largest ? one : largest;
  std::size_t place = 0;
  while (place < count && number(place) != largest) ++place;
  if (place == count) return {0, std::numeric_limits<double>::quiet_NaN()};  // not one number
  return {static_cast<std::int64_t>(place), static_cast<double>(largest)};
}

std::int64_t integer_at(const std::byte* at, const DType& dtype) noexcept {
  if (dtype.code == DTypeCode::kInt) {
    if (dtype.bits == 16) return load<std::int16_t>(at);
    if (dtype.bits == 32) return load<std::int32_t>(at);
    return dtype.bits == 64 ? load<std::int64_t>(at) : load<std::int8_t>(at);
  }
  if (dtype.bits == 16) return load<std::uint16_t>(at);
  if (dtype.bits == 32) return load<std::uint32_t>(at);
  // One of 64 bits keeps them all.
  return dtype.bits == 64 ? load<std::int64_t>(at) : load<std::uint8_t>(at);
}

}  // namespace

OutputReader::OutputReader(const RowSpec& output) {
  for (std::size_t i = 0; i < output.columns.size(); ++i) {
    const TensorSpec& tensor = output.columns[i];
    kind_ = kind_of(tensor);
    if (kind_ == OutputKind::kNothing) continue;
    column_ = i;
    width_ = tensor.elements();
    dtype_ = tensor.dtype;
    return;
  }
}

OutputKind OutputReader::kind_of(const TensorSpec& tensor) noexcept {
  const std::size_t elements = tensor.elements();
  if (tensor.ragged || tensor.shape.size() > 1 || elements == 0) return OutputKind::kNothing;
  switch (tensor.dtype.code) {
    case DTypeCode::kInt:
    case DTypeCode::kUInt:
    case DTypeCode::kBool:
      return elements == 1 ? OutputKind::kLabels : OutputKind::kNothing;
    case DTypeCode::kFloat:
      if (tensor.dtype.bits != 16 && tensor.dtype.bits != 32 && tensor.dtype.bits != 64) {
        return OutputKind::kNothing;
      }
      [[fallthrough]];
    case DTypeCode::kBfloat:
      if (elements > kLongest) return OutputKind::kNothing;
      return elements == 1 ? OutputKind::kValues : OutputKind::kScores;
    default:
      return OutputKind::kNothing;
  }
}

OutputReader::Read OutputReader::read(const ColumnRows* rows, std::uint32_t row) const noexcept {
  const std::byte* at = rows[column_].data + row * width_ * dtype_.bytes();
  if (kind_ == OutputKind::kLabels) return {integer_at(at, dtype_), 0.0};
  return with_floats(at, dtype_, [&](auto&& number) -> Read {
    if (width_ == 1) return {0, static_cast<double>(number(0))};
    return largest_of(number, width_);
  });
}

}  // namespace clipper
