#include "queue/row_blocks.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "base/errors.h"

namespace clipper {
namespace {

constexpr std::uint64_t kLiveMask = (std::uint64_t{1} << 31) - 1;
constexpr std::uint64_t kOpen = std::uint64_t{1} << 31;
constexpr int kCursorShift = 32;

// Large enough that few batches straddle two blocks, small enough to stay in a shared cache level.
constexpr std::size_t kBlockBytes = std::size_t{1} << 20;
constexpr std::uint32_t kLeastBlockRows = 64;

std::uint64_t live(std::uint64_t state) { return state & kLiveMask; }
std::uint64_t cursor(std::uint64_t state) { return state >> kCursorShift; }

std::size_t round_up_to_page(std::size_t bytes) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

std::uint32_t choose_block_rows(std::size_t row_bytes, std::size_t budget_bytes,
                                std::uint32_t least) {
  const std::size_t usual =
      std::max<std::size_t>(kBlockBytes / row_bytes, std::max(kLeastBlockRows, least));
  // Two blocks at least, else one kept view would stop the model.
  const std::size_t most = std::max<std::size_t>(budget_bytes / 2 / row_bytes, 1);
  return static_cast<std::uint32_t>(std::min(usual, most));
}

/// Shared memory that a worker process may map: its size is sealed, so no mapping can be cut short.
std::byte* map_sealed_memory(std::size_t bytes) {
  const int fd = memfd_create("clipper-rows", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) throw Error(ErrorCode::kOutOfMemory, "memfd_create failed for a model's rows");
  void* memory = MAP_FAILED;
  if (ftruncate(fd, static_cast<off_t>(bytes)) == 0 &&
      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
    memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  }
  close(fd);
  if (memory == MAP_FAILED) {
    throw Error(ErrorCode::kOutOfMemory,
                "cannot map " + std::to_string(bytes) + " bytes for a model's rows");
  }
  return static_cast<std::byte*>(memory);
}

}  // namespace

RowBlocks::RowBlocks(std::size_t row_bytes, std::size_t budget_bytes,
                     std::uint32_t least_block_rows)
    : row_bytes_(row_bytes),
      block_rows_(row_bytes == 0 ? 0
                                 : choose_block_rows(row_bytes, budget_bytes, least_block_rows)),
      block_bytes_(round_up_to_page(row_bytes * block_rows_)) {
  if (row_bytes == 0 || row_bytes > budget_bytes) {
    throw Error(ErrorCode::kInvalidArgument,
                "a row of " + std::to_string(row_bytes) + " bytes does not fit the budget of " +
                    std::to_string(budget_bytes) + " bytes for waiting rows");
  }
  block_count_ = std::max<std::size_t>(budget_bytes / block_bytes_, 2);
  mapped_bytes_ = block_count_ * block_bytes_;
  memory_ = map_sealed_memory(mapped_bytes_);
  blocks_ = std::make_unique<Block[]>(block_count_);
  free_.reserve(block_count_);  // so that recycling never allocates
  for (std::size_t i = 0; i < block_count_; ++i) {
    blocks_[i].data = memory_ + i * block_bytes_;
    blocks_[i].pool = this;
  }
}

RowBlocks::~RowBlocks() { munmap(memory_, mapped_bytes_); }

std::optional<RowRun> RowBlocks::reserve(std::uint32_t rows) noexcept {
  for (;;) {
    Block* block = open_.load(std::memory_order_acquire);
    if (block != nullptr) {
      std::uint64_t state = block->state.load(std::memory_order_relaxed);
      while ((state & kOpen) != 0) {
        const std::uint64_t first = live(state) == 0 ? 0 : cursor(state);
        if (first + rows > block_rows_) break;
        const std::uint64_t next = ((first + rows) << kCursorShift) | kOpen | (live(state) + rows);
        // Acquire pairs with release(): whoever read these rows before is done with them.
        if (block->state.compare_exchange_weak(state, next, std::memory_order_acquire,
                                               std::memory_order_relaxed)) {
          return RowRun{block, static_cast<std::uint32_t>(first), rows};
        }
      }
    }
    if (!open_another(block)) return std::nullopt;
  }
}

void RowBlocks::release(Block& block, std::uint32_t count) noexcept {
  const std::uint64_t state = block.state.fetch_sub(count, std::memory_order_acq_rel) - count;
  if (live(state) == 0 && (state & kOpen) == 0) block.pool->recycle(block);
}

void RowBlocks::lease(Block& block) noexcept {
  block.state.fetch_add(1, std::memory_order_relaxed);
}

bool RowBlocks::open_another(const Block* full) noexcept {
  const std::scoped_lock lock(mutex_);
  Block* open = open_.load(std::memory_order_relaxed);
  if (open != full) return true;  // somebody else has done it
  Block* next = nullptr;
  if (!free_.empty()) {
    next = free_.back();
    free_.pop_back();
  } else if (carved_ < block_count_) {
    next = &blocks_[carved_++];
  } else {
    return false;  // the full block stays open: it serves again as soon as its rows are gone
  }
  next->state.store(kOpen, std::memory_order_relaxed);
  open_.store(next, std::memory_order_release);
  if (open != nullptr) {
    const std::uint64_t state = open->state.fetch_and(~kOpen, std::memory_order_acq_rel);
    if (live(state) == 0) free_.push_back(open);
  }
  return true;
}

void RowBlocks::recycle(Block& block) noexcept {
  const std::scoped_lock lock(mutex_);
  free_.push_back(&block);
}

std::size_t RowBlocks::bytes_in_use() const noexcept {
  const std::scoped_lock lock(mutex_);
  return (carved_ - free_.size()) * block_bytes_;
}

}  // namespace clipper
