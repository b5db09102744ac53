// How the outputs of a query lie in its memory: one row after the other, a row's tensors side by
// side. A ragged tensor is a cell there that owns its values.
//
// Thread safety: immutable. Rows belong to whoever may write the query's outputs.
// Invariant: a cell owns its values until clear() or take().
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/tensor.h"

namespace clipper {

/// One row's values of a ragged tensor. Freed with delete[].
struct RaggedCell {
  std::byte* data = nullptr;
  std::int64_t items = 0;
};

class OutputLayout {
 public:
  struct Column {
    std::size_t item_bytes = 0;
    std::size_t offset = 0;  ///< within a row
    bool ragged = false;
  };

  OutputLayout() = default;
  explicit OutputLayout(const RowSpec& spec);

  [[nodiscard]] const std::vector<Column>& columns() const noexcept { return columns_; }
  [[nodiscard]] std::size_t row_bytes() const noexcept { return row_bytes_; }
  /// Rows are bytes and own nothing.
  [[nodiscard]] bool is_fixed() const noexcept { return !has_cells_; }

  /// Makes rows that own nothing yet. REQUIRES: memory of rows · row_bytes() bytes.
  void prepare(std::byte* rows, std::uint32_t count) const noexcept;
  /// Copies `count` rows, from row `first` of `source`, over rows that are prepared or written.
  /// False: there was no memory for values; the rows may be cleared, and nothing else.
  [[nodiscard]] bool write(std::byte* rows, const ColumnRows* source, std::uint32_t first,
                           std::uint32_t count) const noexcept;
  /// Copies one row over a prepared one. False: as write().
  [[nodiscard]] bool copy(const std::byte* from, std::byte* to) const noexcept;
  [[nodiscard]] bool equal(const std::byte* a, const std::byte* b) const noexcept;
  /// Frees what the rows own.
  void clear(std::byte* rows, std::uint32_t count) const noexcept;

  [[nodiscard]] static RaggedCell& cell(std::byte* row, const Column& column) noexcept {
    return *reinterpret_cast<RaggedCell*>(row + column.offset);
  }
  [[nodiscard]] static const RaggedCell& cell(const std::byte* row, const Column& column) noexcept {
    return *reinterpret_cast<const RaggedCell*>(row + column.offset);
  }

 private:
  std::vector<Column> columns_;
  std::size_t row_bytes_ = 0;
  bool has_cells_ = false;
  bool is_plain_ = false;  // one tensor of fixed shape: rows are packed densely
};

}  // namespace clipper
