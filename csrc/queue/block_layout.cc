#include "queue/block_layout.h"

namespace clipper {
namespace {

constexpr std::size_t kCacheLine = 64;

std::size_t align_up(std::size_t bytes) {
  return (bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
}

}  // namespace

BlockLayout::BlockLayout(const RowSpec& spec, std::uint32_t rows,
                         std::span<const std::int64_t> items)
    : rows_(rows) {
  std::size_t ragged = 0;
  for (const TensorSpec& tensor : spec.columns) {
    Column column{tensor.item_bytes(), 0, 0, 0, tensor.ragged};
    if (tensor.ragged) {
      column.items = items[ragged++];
      column.offsets_at = align_up(bytes_);
      bytes_ = column.offsets_at + (std::size_t{rows} + 1) * sizeof(std::int64_t);
    }
    const std::size_t count = tensor.ragged ? static_cast<std::size_t>(column.items) : rows;
    column.data_at = align_up(bytes_);
    bytes_ = column.data_at + count * column.item_bytes;
    columns_.push_back(column);
  }
}

std::size_t BlockLayout::fixed_bytes(const RowSpec& spec) noexcept {
  std::size_t bytes = 0;
  for (const TensorSpec& tensor : spec.columns) {
    bytes += tensor.ragged ? sizeof(std::int64_t) : tensor.item_bytes();
  }
  return bytes;
}

}  // namespace clipper
