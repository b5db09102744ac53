// Maps batch sizes to log-linear buckets: every size up to 8 has its own, larger ones share four
// per octave. A bucket is (low, high], so that powers of two, where padded models step, close
// buckets.
//
// Thread safety: stateless.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace clipper {

struct RowBucket {
  std::size_t index = 0;
  std::uint32_t low = 0;    ///< exclusive
  unsigned width_log2 = 0;  ///< high = low + 2^width_log2

  [[nodiscard]] constexpr std::uint32_t high() const noexcept { return low + (1U << width_log2); }
};

namespace row_buckets {

inline constexpr std::uint32_t kExact = 8;
inline constexpr std::uint32_t kLargestRows = 1U << 20;
inline constexpr std::size_t kCount = kExact + 4 * 17;  // octaves 8..2^20

/// The bucket of a size; sizes outside [1, kLargestRows] are clamped.
[[nodiscard]] constexpr RowBucket of(std::uint32_t rows) noexcept {
  rows = std::clamp(rows, 1U, kLargestRows);
  if (rows <= kExact) return {rows - 1, rows - 1, 0};
  const std::uint32_t below = rows - 1;
  const unsigned octave = static_cast<unsigned>(std::bit_width(below)) - 1;  // >= 3
  const unsigned width_log2 = octave - 2;
  const std::uint32_t quarter = (below >> width_log2) & 3U;
  return {kExact + std::size_t{4} * (octave - 3) + quarter, (4 + quarter) << width_log2,
          width_log2};
}

/// The bucket of an index below kCount.
[[nodiscard]] constexpr RowBucket at(std::size_t index) noexcept {
  if (index < kExact) return {index, static_cast<std::uint32_t>(index), 0};
  const std::size_t beyond = std::min(index, kCount - 1) - kExact;
  const unsigned width_log2 = static_cast<unsigned>(beyond / 4) + 1;
  const auto quarter = static_cast<std::uint32_t>(beyond % 4);
  return {index, (4 + quarter) << width_log2, width_log2};
}

}  // namespace row_buckets
}  // namespace clipper
