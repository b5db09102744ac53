#include "base/output_layout.h"

#include <cstring>
#include <new>

namespace clipper {
namespace {

constexpr std::size_t kAlignment = 16;  // of every tensor in a row, so of every NumPy item too

std::size_t align_up(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

bool fill(RaggedCell& cell, const std::byte* values, std::int64_t items,
          std::size_t item_bytes) noexcept {
  delete[] cell.data;
  cell = {};
  const std::size_t bytes = static_cast<std::size_t>(items) * item_bytes;
  if (bytes > 0) {
    cell.data = new (std::nothrow) std::byte[bytes];
    if (cell.data == nullptr) return false;
    std::memcpy(cell.data, values, bytes);
  }
  cell.items = items;
  return true;
}

}  // namespace

OutputLayout::OutputLayout(const RowSpec& spec) : is_plain_(spec.is_plain()) {
  for (const TensorSpec& tensor : spec.columns) {
    columns_.push_back({tensor.item_bytes(), row_bytes_, tensor.ragged});
    const std::size_t bytes = tensor.ragged ? sizeof(RaggedCell) : tensor.item_bytes();
    row_bytes_ += is_plain_ ? bytes : align_up(bytes);
    has_cells_ = has_cells_ || tensor.ragged;
  }
}

void OutputLayout::prepare(std::byte* rows, std::uint32_t count) const noexcept {
  if (!has_cells_) return;
  for (std::uint32_t row = 0; row < count; ++row, rows += row_bytes_) {
    for (const Column& column : columns_) {
      if (column.ragged) new (rows + column.offset) RaggedCell;
    }
  }
}

bool OutputLayout::write(std::byte* rows, const ColumnRows* source, std::uint32_t first,
                         std::uint32_t count) const noexcept {
  if (is_plain_) {
    std::memcpy(rows, source->data + first * row_bytes_, count * row_bytes_);
    return true;
  }
  bool had_memory = true;
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    const Column& column = columns_[c];
    const ColumnRows& from = source[c];
    std::byte* row = rows;
    for (std::uint32_t i = first; i < first + count; ++i, row += row_bytes_) {
      if (column.ragged) {
        const std::int64_t begin = from.begin_of(i);
        had_memory &=
            fill(cell(row, column), from.data + static_cast<std::size_t>(begin) * column.item_bytes,
                 from.begin_of(i + 1) - begin, column.item_bytes);
      } else {
        std::memcpy(row + column.offset, from.data + i * column.item_bytes, column.item_bytes);
      }
    }
  }
  return had_memory;
}

bool OutputLayout::copy(const std::byte* from, std::byte* to) const noexcept {
  if (is_plain_) {
    std::memcpy(to, from, row_bytes_);
    return true;
  }
  bool had_memory = true;
  for (const Column& column : columns_) {
    if (column.ragged) {
      const RaggedCell& source = cell(from, column);
      had_memory &= fill(cell(to, column), source.data, source.items, column.item_bytes);
    } else {
      std::memcpy(to + column.offset, from + column.offset, column.item_bytes);
    }
  }
  return had_memory;
}

bool OutputLayout::equal(const std::byte* a, const std::byte* b) const noexcept {
  for (const Column& column : columns_) {
    if (!column.ragged) {
      if (std::memcmp(a + column.offset, b + column.offset, column.item_bytes) != 0) return false;
      continue;
    }
    const RaggedCell& left = cell(a, column);
    const RaggedCell& right = cell(b, column);
    const std::size_t bytes = static_cast<std::size_t>(left.items) * column.item_bytes;
    if (left.items != right.items) return false;
    if (bytes > 0 && std::memcmp(left.data, right.data, bytes) != 0) return false;
  }
  return true;
}

void OutputLayout::clear(std::byte* rows, std::uint32_t count) const noexcept {
  if (!has_cells_) return;
  for (std::uint32_t row = 0; row < count; ++row, rows += row_bytes_) {
    for (const Column& column : columns_) {
      if (!column.ragged) continue;
      delete[] cell(rows, column).data;
      cell(rows, column) = {};
    }
  }
}

}  // namespace clipper
