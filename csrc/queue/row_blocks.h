// Blocks of rows in shared memory: a query's row is written once, where its batch will be read.
//
// A pool is one sealed memfd, mapped once and carved into blocks of equal size. Producers reserve
// runs of rows in the open block; when it is full the next one is opened. A block is recycled when
// its last row and its last lease (a view that user code still holds) are gone, so one slow batch
// or kept view holds its own block and nothing else. Rows are packed densely: a run of rows is a
// C-contiguous batch. Ragged rows that no block could hold get one of their own, on the heap.
//
// Thread safety: all of it. Reserving and releasing are one compare-and-swap; opening another block
// and reserving ragged rows take a mutex.
// Invariants: a block is open, or in the free list, or has live rows. Only an open block with no
// live row starts again from its first row, so an idle model keeps using the same warm cache lines.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/sealed_memory.h"
#include "base/tensor.h"
#include "queue/block_layout.h"

namespace clipper {

class RowBlocks;

struct Block {
  std::byte* data = nullptr;
  RowBlocks* pool = nullptr;
  const BlockLayout* layout = nullptr;
  /// cursor : 32 | open : 1 | live : 31. Live counts the rows that are reserved and the leases.
  std::atomic<std::uint64_t> state{0};

  // Of a block that was made for ragged rows of its own.
  std::unique_ptr<std::byte[]> own_memory;
  BlockLayout own_layout;
};

/// `rows` consecutive rows of a block, from row `first`.
struct RowRun {
  Block* block = nullptr;
  std::uint32_t first = 0;
  std::uint32_t rows = 0;
};

class RowBlocks : public std::enable_shared_from_this<RowBlocks> {
 public:
  /// A block holds `least_block_rows` rows where the budget allows two such blocks. Throws
  /// kOutOfMemory if the memory cannot be had, kInvalidArgument if one row exceeds the budget.
  RowBlocks(const RowSpec& spec, std::size_t budget_bytes, std::uint32_t least_block_rows);
  /// Rows of `row_bytes` bytes.
  RowBlocks(std::size_t row_bytes, std::size_t budget_bytes, std::uint32_t least_block_rows);
  ~RowBlocks();
  RowBlocks(const RowBlocks&) = delete;
  RowBlocks& operator=(const RowBlocks&) = delete;

  /// Reserves a run; nullopt: no free block within the budget. REQUIRES: 1 <= rows <= block_rows(),
  /// rows of fixed shape.
  [[nodiscard]] std::optional<RowRun> reserve(std::uint32_t rows) noexcept;
  /// The same for rows of any kind, which are then written by write(): those of `source` from row
  /// `first` on. Their offsets are written already.
  [[nodiscard]] std::optional<RowRun> reserve(std::uint32_t rows, const ColumnRows* source,
                                              std::uint32_t first) noexcept;
  /// Copies the rows that the run was reserved for.
  void write(const RowRun& run, const ColumnRows* source, std::uint32_t first) const noexcept;
  /// A block for exactly these rows, whatever lies where; to be filled with append().
  [[nodiscard]] std::optional<RowRun> reserve_own(std::uint32_t rows,
                                                  std::span<const std::int64_t> items) noexcept;
  /// Copies run `from` of another block of this spec to rows [at, ...) of a block made by
  /// reserve_own(). In order, from row 0 on.
  void append(const RowRun& from, const RowRun& to, std::uint32_t at) const noexcept;

  /// Gives `count` rows or leases of a block back. The pool must be kept alive by the caller.
  static void release(Block& block, std::uint32_t count) noexcept;

  /// Keeps the block from being recycled. REQUIRES: some row or lease of it is held.
  static void lease(Block& block) noexcept;

  [[nodiscard]] std::byte* row(const Block& block, std::uint32_t index,
                               std::size_t column = 0) const noexcept {
    return block.layout->row(block.data, column, index);
  }
  /// Items of a ragged column in a run.
  [[nodiscard]] static std::int64_t items(const RowRun& run, std::size_t column) noexcept {
    const std::int64_t* offsets = run.block->layout->offsets(run.block->data, column);
    return offsets[run.first + run.rows] - offsets[run.first];
  }
  [[nodiscard]] bool is_ragged() const noexcept { return is_ragged_; }
  /// What all blocks lie in, but those on the heap.
  [[nodiscard]] const SealedMemory& memory() const noexcept { return *memory_; }
  /// Bytes of a row without the values of its ragged tensors.
  [[nodiscard]] std::size_t row_bytes() const noexcept { return BlockLayout::fixed_bytes(spec_); }
  [[nodiscard]] std::uint32_t block_rows() const noexcept { return block_rows_; }
  /// Bytes of the blocks that are open or hold live rows or leases.
  [[nodiscard]] std::size_t bytes_in_use() const noexcept;
  /// Rows reserved and leases held.
  [[nodiscard]] std::uint64_t held() const noexcept;

 private:
  [[nodiscard]] bool open_another(const Block* full) noexcept;
  [[nodiscard]] bool open_another_locked(const Block* full) noexcept;
  [[nodiscard]] std::optional<RowRun> reserve_in_open(std::uint32_t rows,
                                                      std::span<const std::int64_t> items) noexcept;
  void recycle(Block& block) noexcept;

  const RowSpec spec_;
  const bool is_ragged_;
  const std::size_t budget_bytes_;
  const std::uint32_t block_rows_;
  const BlockLayout layout_;
  const std::size_t block_bytes_;
  std::unique_ptr<SealedMemory> memory_;

  std::atomic<Block*> open_{nullptr};
  mutable std::mutex mutex_;  // guards what follows
  std::vector<Block*> free_;  // most recently used last: reused first, while its lines are warm
  std::size_t carved_ = 0;    // blocks_[0, carved_) have been used
  std::unique_ptr<Block[]> blocks_;
  std::size_t block_count_ = 0;
  std::size_t own_bytes_ = 0;  // of blocks made by reserve_own()
};

}  // namespace clipper
