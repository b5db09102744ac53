// What the way of a query through a plan depends on: a number read off a model's output, and a test
// that it passes or fails.
//
// Thread safety: immutable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/tensor.h"

namespace clipper {

/// Which number of an output counts.
struct Reading {
  static constexpr std::int64_t kLargest = -1;

  std::uint16_t column = 0;         ///< of the output
  std::int64_t element = kLargest;  ///< in C order; kLargest: the largest of all
  TensorSpec tensor;                ///< of that column

  /// Throws kInvalidArgument if no number can be read off such an output.
  void check() const;
  /// NaN where there is no such element, or an element that counts is NaN. Exact for all integers.
  /// elements: how many lie at `data`; of a ragged tensor each row has its own number.
  [[nodiscard]] long double read(const std::byte* data, std::size_t elements) const noexcept;
};

struct Condition {
  enum class Test : std::uint8_t {
    kLess,
    kAtMost,
    kMore,
    kAtLeast,
    kNotAtLeast,  ///< less, or not a number
    kAmong,       ///< equal to one of `numbers`, or the bytes of one of `texts`
    kNotAmong,
  };

  std::uint16_t stage = 0;  ///< whose output is looked at
  Reading reading;
  Test test = Test::kAtLeast;
  long double threshold = 0;
  std::vector<long double> numbers;
  std::vector<std::string> texts;  ///< not empty: bytes are compared, not numbers

  /// Throws kInvalidArgument if it could never be decided.
  void check() const;
  /// As Reading::read().
  [[nodiscard]] bool holds(const std::byte* data, std::size_t elements) const noexcept;
};

}  // namespace clipper
