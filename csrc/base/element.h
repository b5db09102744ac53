// One element of a tensor of any real dtype, as a double.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/tensor.h"

namespace clipper {

/// Whether element_of() can read it.
[[nodiscard]] constexpr bool is_real(DType dtype) noexcept {
  switch (dtype.code) {
    case DTypeCode::kBool:
    case DTypeCode::kInt:
    case DTypeCode::kUInt:
      return dtype.bits == 8 || dtype.bits == 16 || dtype.bits == 32 || dtype.bits == 64;
    case DTypeCode::kFloat:
      return dtype.bits == 16 || dtype.bits == 32 || dtype.bits == 64;
    case DTypeCode::kBfloat:
      return dtype.bits == 16;
    default:
      return false;
  }
}

/// IEEE binary16 as a double.
[[nodiscard]] inline double half_to_double(std::uint16_t bits) noexcept {
  const int exponent = (bits >> 10) & 0x1f;
  const int fraction = bits & 0x3ff;
  double value = 0.0;
  if (exponent == 0x1f) {
    value = fraction == 0 ? HUGE_VAL : std::nan("");
  } else if (exponent == 0) {
    value = std::ldexp(fraction, -24);
  } else {
    value = std::ldexp(fraction | 0x400, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

/// A T at any address, as a double.
template <class T>
[[nodiscard]] double load_as_double(const std::byte* at) noexcept {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return static_cast<double>(value);
}

/// Element `place` of a row. REQUIRES: is_real(dtype).
[[nodiscard]] inline double element_of(const std::byte* row, DType dtype,
                                       std::size_t place) noexcept {
  const std::byte* at = row + place * dtype.bytes();
  std::uint16_t half = 0;
  if (dtype.bits == 16) std::memcpy(&half, at, sizeof(half));
  if (dtype.code == DTypeCode::kFloat) {
    if (dtype.bits == 32) return load_as_double<float>(at);
    return dtype.bits == 64 ? load_as_double<double>(at) : half_to_double(half);
  }
  if (dtype.code == DTypeCode::kBfloat) {
    return static_cast<double>(std::bit_cast<float>(std::uint32_t{half} << 16));
  }
  const bool is_signed = dtype.code == DTypeCode::kInt;
  switch (dtype.bits) {
    case 8:
      return is_signed ? load_as_double<std::int8_t>(at) : load_as_double<std::uint8_t>(at);
    case 16:
      return is_signed ? load_as_double<std::int16_t>(at) : load_as_double<std::uint16_t>(at);
    case 32:
      return is_signed ? load_as_double<std::int32_t>(at) : load_as_double<std::uint32_t>(at);
    default:
      return is_signed ? load_as_double<std::int64_t>(at) : load_as_double<std::uint64_t>(at);
  }
}

}  // namespace clipper
