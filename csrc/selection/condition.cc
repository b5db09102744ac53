#include "selection/condition.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string_view>

#include "base/errors.h"

namespace clipper {
namespace {

constexpr long double kNoNumber = std::numeric_limits<long double>::quiet_NaN();

struct Half {
  std::uint16_t bits;
};
struct Brain {
  std::uint16_t bits;
};

// In what numbers of a kind are compared.
template <typename Number>
Number comparable(Number number) {
  return number;
}

float comparable(Brain brain) { return std::bit_cast<float>(std::uint32_t{brain.bits} << 16); }

// IEEE 754 binary16: sign : 1 | exponent : 5 | fraction : 10.
float comparable(Half half) {
  const int exponent = (half.bits >> 10) & 0x1f;
  const int fraction = half.bits & 0x3ff;
  float size = std::numeric_limits<float>::quiet_NaN();
  if (exponent == 0) {
    size = std::ldexp(static_cast<float>(fraction), -24);
  } else if (exponent < 0x1f) {
    size = std::ldexp(static_cast<float>(0x400 + fraction), exponent - 25);
  } else if (fraction == 0) {
    size = std::numeric_limits<float>::infinity();
  }
  return (half.bits & 0x8000) != 0 ? -size : size;
}

template <typename Number>
auto at(const std::byte* data, std::size_t element) {
  Number number;
  std::memcpy(&number, data + element * sizeof number, sizeof number);
  return comparable(number);
}

template <typename Number>
long double pick(const std::byte* data, std::size_t elements, std::int64_t element) {
  if (element != Reading::kLargest) {
    const auto place = static_cast<std::size_t>(element);
    return place < elements ? static_cast<long double>(at<Number>(data, place)) : kNoNumber;
  }
  if (elements == 0) return kNoNumber;
  auto largest = at<Number>(data, 0);
  for (std::size_t i = 1; i < elements; ++i) {
    const auto next = at<Number>(data, i);
    // A comparison that fails for want of a number takes it over, and nothing replaces it.
    if (largest == largest && !(next <= largest)) largest = next;
  }
  return static_cast<long double>(largest);
}

using Picker = long double (*)(const std::byte*, std::size_t, std::int64_t);

template <typename Of8, typename Of16, typename Of32, typename Of64>
Picker by_width(std::uint8_t bits) {
  switch (bits) {
    case 8:
      return pick<Of8>;
    case 16:
      return pick<Of16>;
    case 32:
      return pick<Of32>;
    case 64:
      return pick<Of64>;
    default:
      return nullptr;
  }
}

/// nullptr: such elements are no numbers that can be compared.
Picker picker_of(const DType& dtype) {
  switch (dtype.code) {
    case DTypeCode::kInt:
      return by_width<std::int8_t, std::int16_t, std::int32_t, std::int64_t>(dtype.bits);
    case DTypeCode::kUInt:
    case DTypeCode::kBool:
      return by_width<std::uint8_t, std::uint16_t, std::uint32_t, std::uint64_t>(dtype.bits);
    case DTypeCode::kFloat:
      if (dtype.bits == 16) return pick<Half>;
      if (dtype.bits == 32) return pick<float>;
      return dtype.bits == 64 ? pick<double> : nullptr;
    case DTypeCode::kBfloat:
      return pick<Brain>;
    case DTypeCode::kComplex:
      break;
  }
  return nullptr;
}

[[noreturn]] void refuse(const char* why) { throw Error(ErrorCode::kInvalidArgument, why); }

}  // namespace

void Reading::check() const {
  if (picker_of(tensor.dtype) == nullptr) refuse("conditions compare integers and floats only");
  if (element < kLargest) refuse("an element is a place from 0 on");
  if (!tensor.ragged && element >= static_cast<std::int64_t>(tensor.elements())) {
    refuse("the output has no such element");
  }
}

long double Reading::read(const std::byte* data, std::size_t elements) const noexcept {
  return picker_of(tensor.dtype)(data, elements, element);
}

void Condition::check() const {
  if (!texts.empty()) {
    if (!reading.tensor.ragged || reading.tensor.item_bytes() != 1) {
      refuse("only bytes and text are compared with texts");
    }
    if (test != Test::kAmong && test != Test::kNotAmong) refuse("texts are equal or not");
    return;
  }
  reading.check();
  const bool is_a_set = test == Test::kAmong || test == Test::kNotAmong;
  if (is_a_set ? numbers.empty() : !std::isfinite(threshold)) {
    refuse("a condition compares with finite numbers");
  }
}

bool Condition::holds(const std::byte* data, std::size_t elements) const noexcept {
  if (!texts.empty()) {
    const std::string_view said(reinterpret_cast<const char*>(data), elements);
    const bool is_among = std::find(texts.begin(), texts.end(), said) != texts.end();
    return is_among == (test == Test::kAmong);
  }
  const long double number = reading.read(data, elements);
  switch (test) {
    case Test::kLess:
      return number < threshold;
    case Test::kAtMost:
      return number <= threshold;
    case Test::kMore:
      return number > threshold;
    case Test::kAtLeast:
      return number >= threshold;
    case Test::kNotAtLeast:
      return !(number >= threshold);
    case Test::kAmong:
      return std::find(numbers.begin(), numbers.end(), number) != numbers.end();
    case Test::kNotAmong:
      return std::find(numbers.begin(), numbers.end(), number) == numbers.end();
  }
  return false;
}

}  // namespace clipper
