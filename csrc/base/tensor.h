// What one row looks like, and rows on their way in or out. Field names and units are DLPack's, so
// that an export is a cast.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace clipper {

/// DLPack's type codes.
enum class DTypeCode : std::uint8_t {
  kInt = 0,
  kUInt = 1,
  kFloat = 2,
  kBfloat = 4,
  kComplex = 5,
  kBool = 6
};

struct DType {
  DTypeCode code = DTypeCode::kFloat;
  std::uint8_t bits = 32;

  [[nodiscard]] std::size_t bytes() const noexcept { return (bits + 7u) / 8u; }
  friend bool operator==(const DType&, const DType&) = default;
};

/// One tensor of a row, without the batch axis. A ragged one has a further first axis, whose length
/// is each row's own; bytes and text are ragged rows of uint8.
struct TensorSpec {
  DType dtype;
  std::vector<std::int64_t> shape;  ///< without the ragged axis
  bool ragged = false;

  [[nodiscard]] std::size_t elements() const noexcept {
    std::size_t product = 1;
    for (const std::int64_t extent : shape) product *= static_cast<std::size_t>(extent);
    return product;
  }
  /// Bytes of a row; of a ragged one, bytes of one step along its axis.
  [[nodiscard]] std::size_t item_bytes() const noexcept { return elements() * dtype.bytes(); }
  friend bool operator==(const TensorSpec&, const TensorSpec&) = default;
};

/// The tensors of a row, in an order that both ends know; their names live on the other side.
struct RowSpec {
  std::vector<TensorSpec> columns;

  RowSpec() = default;
  RowSpec(TensorSpec only) : columns{std::move(only)} {}  // NOLINT: one tensor is a row
  RowSpec(DType dtype, std::vector<std::int64_t> shape)
      : columns{{dtype, std::move(shape), false}} {}

  [[nodiscard]] bool is_ragged() const noexcept {
    for (const TensorSpec& column : columns) {
      if (column.ragged) return true;
    }
    return false;
  }
  /// One tensor of fixed shape: rows are then nothing but bytes, one after the other.
  [[nodiscard]] bool is_plain() const noexcept { return columns.size() == 1 && !columns[0].ragged; }
  friend bool operator==(const RowSpec&, const RowSpec&) = default;
};

inline constexpr std::size_t kMaxColumns = 32;

/// Consecutive rows of one column, wherever they lie.
struct ColumnRows {
  const std::byte* data = nullptr;
  /// Ragged columns: where row i begins, in items after `data`; one entry more than rows.
  const std::int64_t* offsets = nullptr;
  /// The offsets of a single row, for who has nowhere else to keep them.
  std::int64_t single[2] = {0, 0};

  [[nodiscard]] std::int64_t begin_of(std::uint32_t row) const noexcept {
    return offsets != nullptr ? offsets[row] : single[row];
  }
};

}  // namespace clipper
