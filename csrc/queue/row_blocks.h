// Blocks of rows in shared memory: a query's row is written once, where its batch will be read.
//
// A pool is one sealed memfd, mapped once and carved into blocks of equal size. Producers reserve
// runs of rows in the open block; when it is full the next one is opened. A block is recycled when
// its last row and its last lease (a view that user code still holds) are gone, so one slow batch
// or kept view holds its own block and nothing else. Rows are packed densely: a run of rows is a
// C-contiguous batch.
//
// Thread safety: all of it. Reserving and releasing are one compare-and-swap; opening another block
// takes a mutex.
// Invariants: a block is open, or in the free list, or has live rows. Only an open block with no
// live row starts again from its first row, so an idle model keeps using the same warm cache lines.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

namespace clipper {

class RowBlocks;

struct Block {
  std::byte* data = nullptr;
  RowBlocks* pool = nullptr;
  /// cursor : 32 | open : 1 | live : 31. Live counts the rows that are reserved and the leases.
  std::atomic<std::uint64_t> state{0};
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
  RowBlocks(std::size_t row_bytes, std::size_t budget_bytes, std::uint32_t least_block_rows);
  ~RowBlocks();
  RowBlocks(const RowBlocks&) = delete;
  RowBlocks& operator=(const RowBlocks&) = delete;

  /// Reserves a run; nullopt: no free block within the budget. REQUIRES: 1 <= rows <= block_rows().
  [[nodiscard]] std::optional<RowRun> reserve(std::uint32_t rows) noexcept;

  /// Gives `count` rows or leases of a block back. The pool must be kept alive by the caller.
  static void release(Block& block, std::uint32_t count) noexcept;

  /// Keeps the block from being recycled. REQUIRES: some row or lease of it is held.
  static void lease(Block& block) noexcept;

  [[nodiscard]] std::byte* row(const Block& block, std::uint32_t index) const noexcept {
    return block.data + std::size_t{index} * row_bytes_;
  }
  [[nodiscard]] std::size_t row_bytes() const noexcept { return row_bytes_; }
  [[nodiscard]] std::uint32_t block_rows() const noexcept { return block_rows_; }
  /// Bytes of the blocks that are open or hold live rows or leases.
  [[nodiscard]] std::size_t bytes_in_use() const noexcept;

 private:
  [[nodiscard]] bool open_another(const Block* full) noexcept;
  void recycle(Block& block) noexcept;

  const std::size_t row_bytes_;
  const std::uint32_t block_rows_;
  const std::size_t block_bytes_;
  std::size_t mapped_bytes_ = 0;
  std::byte* memory_ = nullptr;

  std::atomic<Block*> open_{nullptr};
  mutable std::mutex mutex_;  // guards what follows
  std::vector<Block*> free_;  // most recently used last: reused first, while its lines are warm
  std::size_t carved_ = 0;    // blocks_[0, carved_) have been used
  std::unique_ptr<Block[]> blocks_;
  std::size_t block_count_ = 0;
};

}  // namespace clipper
