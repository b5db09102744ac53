// Where the columns of a block lie: each tensor's rows one directly after the other, so that a run
// of rows is a C-contiguous batch of every tensor. Ragged tensors are Arrow's list layout: values
// one after the other, and offsets that say where each row begins.
//
// Thread safety: immutable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/tensor.h"

namespace clipper {

class BlockLayout {
 public:
  struct Column {
    std::size_t item_bytes = 0;
    std::size_t data_at = 0;     ///< of the first row, or of the first value
    std::size_t offsets_at = 0;  ///< ragged: of rows + 1 offsets, in items
    std::int64_t items = 0;      ///< ragged: how many fit
    bool ragged = false;
  };

  BlockLayout() = default;
  /// For `rows` rows; `items`: how many items of each ragged column, in their order.
  BlockLayout(const RowSpec& spec, std::uint32_t rows, std::span<const std::int64_t> items);

  [[nodiscard]] const std::vector<Column>& columns() const noexcept { return columns_; }
  [[nodiscard]] std::uint32_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

  [[nodiscard]] std::byte* row(std::byte* block, std::size_t column,
                               std::uint32_t index) const noexcept {
    return block + columns_[column].data_at + index * columns_[column].item_bytes;
  }
  [[nodiscard]] std::int64_t* offsets(std::byte* block, std::size_t column) const noexcept {
    return reinterpret_cast<std::int64_t*>(block + columns_[column].offsets_at);
  }

  /// Bytes of one row without the values of its ragged tensors.
  [[nodiscard]] static std::size_t fixed_bytes(const RowSpec& spec) noexcept;

 private:
  std::vector<Column> columns_;
  std::uint32_t rows_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace clipper
