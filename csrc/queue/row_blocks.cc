#include "queue/row_blocks.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
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

// Ragged blocks: this many rows, and the rest of the block for their values.
constexpr std::uint32_t kRaggedBlockRows = 1024;
constexpr std::size_t kRaggedBlockBytes = std::size_t{4} << 20;

std::uint32_t choose_block_rows(const RowSpec& spec, std::size_t budget_bytes,
                                std::uint32_t least) {
  const std::size_t row_bytes = BlockLayout::fixed_bytes(spec);
  // Values get half of a ragged block at least.
  const std::size_t ragged_rows =
      std::clamp<std::size_t>(kRaggedBlockBytes / 2 / row_bytes, 1, kRaggedBlockRows);
  const std::size_t usual =
      spec.is_ragged()
          ? ragged_rows
          : std::max<std::size_t>(kBlockBytes / row_bytes, std::max(kLeastBlockRows, least));
  // Two blocks at least, else one kept view would stop the model.
  const std::size_t most = std::max<std::size_t>(budget_bytes / 2 / row_bytes, 1);
  return static_cast<std::uint32_t>(std::min(usual, most));
}

BlockLayout lay_out(const RowSpec& spec, std::uint32_t rows, std::size_t budget_bytes) {
  std::vector<std::int64_t> items;
  const auto ragged = static_cast<std::size_t>(
      std::count_if(spec.columns.begin(), spec.columns.end(),
                    [](const TensorSpec& tensor) { return tensor.ragged; }));
  const std::size_t whole = std::min(kRaggedBlockBytes, budget_bytes / 4);
  const std::size_t fixed = std::min(whole, BlockLayout::fixed_bytes(spec) * rows);
  for (const TensorSpec& tensor : spec.columns) {
    if (!tensor.ragged) continue;
    items.push_back(static_cast<std::int64_t>((whole - fixed) / ragged / tensor.item_bytes()));
  }
  return {spec, rows, items};
}

const RowSpec& checked(const RowSpec& spec, std::size_t budget_bytes) {
  const std::size_t row_bytes = BlockLayout::fixed_bytes(spec);
  for (const TensorSpec& tensor : spec.columns) {
    if (tensor.item_bytes() == 0) {
      throw Error(ErrorCode::kInvalidArgument, "a tensor has items of no bytes, or of too many");
    }
  }
  if (row_bytes == 0 || row_bytes > budget_bytes) {
    throw Error(ErrorCode::kInvalidArgument,
                "a row of " + std::to_string(row_bytes) + " bytes does not fit the budget of " +
                    std::to_string(budget_bytes) + " bytes for waiting rows");
  }
  return spec;
}

}  // namespace

RowBlocks::RowBlocks(const RowSpec& spec, std::size_t budget_bytes, std::uint32_t least_block_rows)
    : spec_(checked(spec, budget_bytes)),
      is_ragged_(spec.is_ragged()),
      budget_bytes_(budget_bytes),
      block_rows_(choose_block_rows(spec, budget_bytes, least_block_rows)),
      layout_(lay_out(spec, block_rows_, budget_bytes)),
      block_bytes_(round_up_to_page(layout_.bytes())) {
  block_count_ = std::max<std::size_t>(budget_bytes / block_bytes_, 2);
  memory_ = std::make_unique<SealedMemory>("a model's rows", block_count_ * block_bytes_,
                                           Access::kReadOnly);
  blocks_ = std::make_unique<Block[]>(block_count_);
  free_.reserve(block_count_);  // so that recycling never allocates
  for (std::size_t i = 0; i < block_count_; ++i) {
    blocks_[i].data = memory_->data() + i * block_bytes_;
    blocks_[i].pool = this;
    blocks_[i].layout = &layout_;
  }
}

RowBlocks::RowBlocks(std::size_t row_bytes, std::size_t budget_bytes,
                     std::uint32_t least_block_rows)
    : RowBlocks(RowSpec({DTypeCode::kUInt, 8}, {static_cast<std::int64_t>(row_bytes)}),
                budget_bytes, least_block_rows) {}

RowBlocks::~RowBlocks() = default;

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

// Ragged rows are reserved under the mutex, so that values lie in the order of their rows and each
// run begins where the one before ends.
std::optional<RowRun> RowBlocks::reserve(std::uint32_t rows, const ColumnRows* source,
                                         std::uint32_t first) noexcept {
  if (!is_ragged_) return reserve(rows);
  std::array<std::int64_t, kMaxColumns> wanted{};
  std::size_t ragged = 0;
  bool fits_a_block = rows <= block_rows_;
  for (std::size_t c = 0; c < spec_.columns.size(); ++c) {
    if (!spec_.columns[c].ragged) continue;
    const std::int64_t items = source[c].begin_of(first + rows) - source[c].begin_of(first);
    fits_a_block = fits_a_block && items <= layout_.columns()[c].items;
    wanted[ragged++] = items;
  }
  const auto items = std::span(wanted).first(ragged);
  std::optional<RowRun> run;
  if (!fits_a_block) {
    run = reserve_own(rows, items);
  } else {
    const std::scoped_lock lock(mutex_);
    do {
      run = reserve_in_open(rows, items);
    } while (!run && open_another_locked(open_.load(std::memory_order_relaxed)));
  }
  if (!run) return run;
  for (std::size_t c = 0; c < spec_.columns.size(); ++c) {
    if (!spec_.columns[c].ragged) continue;
    std::int64_t* offsets = run->block->layout->offsets(run->block->data, c) + run->first;
    const std::int64_t shift = offsets[0] - source[c].begin_of(first);
    // The last one was written by reserve_in_open(): the next run begins there.
    for (std::uint32_t i = 1; i < rows; ++i) offsets[i] = source[c].begin_of(first + i) + shift;
  }
  return run;
}

// REQUIRES: mutex_ is held.
std::optional<RowRun> RowBlocks::reserve_in_open(std::uint32_t rows,
                                                 std::span<const std::int64_t> items) noexcept {
  Block* block = open_.load(std::memory_order_relaxed);
  if (block == nullptr) return std::nullopt;
  std::uint64_t state = block->state.load(std::memory_order_acquire);
  for (;;) {
    const std::uint64_t first = live(state) == 0 ? 0 : cursor(state);
    if (first + rows > block_rows_) return std::nullopt;
    std::size_t ragged = 0;
    for (std::size_t c = 0; c < spec_.columns.size(); ++c) {
      if (!spec_.columns[c].ragged) continue;
      const std::int64_t begin = layout_.offsets(block->data, c)[first];
      if (begin + items[ragged++] > layout_.columns()[c].items) return std::nullopt;
    }
    const std::uint64_t next = ((first + rows) << kCursorShift) | kOpen | (live(state) + rows);
    if (!block->state.compare_exchange_weak(state, next, std::memory_order_acquire)) continue;
    ragged = 0;
    for (std::size_t c = 0; c < spec_.columns.size(); ++c) {
      if (!spec_.columns[c].ragged) continue;
      std::int64_t* offsets = layout_.offsets(block->data, c);
      offsets[first + rows] = offsets[first] + items[ragged++];
    }
    return RowRun{block, static_cast<std::uint32_t>(first), rows};
  }
}

std::optional<RowRun> RowBlocks::reserve_own(std::uint32_t rows,
                                             std::span<const std::int64_t> items) noexcept {
  try {
    auto made = std::make_unique<Block>();
    made->own_layout = BlockLayout(spec_, rows, items);
    const std::size_t bytes = made->own_layout.bytes();
    {
      const std::scoped_lock lock(mutex_);
      if (own_bytes_ + bytes > budget_bytes_) return std::nullopt;
      own_bytes_ += bytes;
    }
    made->own_memory.reset(new (std::nothrow) std::byte[bytes]);
    if (made->own_memory == nullptr) {
      const std::scoped_lock lock(mutex_);
      own_bytes_ -= bytes;
      return std::nullopt;
    }
    made->data = made->own_memory.get();
    made->pool = this;
    made->layout = &made->own_layout;
    made->state.store((std::uint64_t{rows} << kCursorShift) | rows, std::memory_order_relaxed);
    std::size_t ragged = 0;
    for (std::size_t c = 0; c < spec_.columns.size(); ++c) {
      if (!spec_.columns[c].ragged) continue;
      made->layout->offsets(made->data, c)[0] = 0;
      made->layout->offsets(made->data, c)[rows] = items[ragged++];
    }
    return RowRun{made.release(), 0, rows};  // recycle() frees it
  } catch (const std::bad_alloc&) {
    return std::nullopt;
  }
}

void RowBlocks::write(const RowRun& run, const ColumnRows* source,
                      std::uint32_t first) const noexcept {
  const BlockLayout& layout = *run.block->layout;
  for (std::size_t c = 0; c < layout.columns().size(); ++c) {
    const std::size_t item_bytes = layout.columns()[c].item_bytes;
    std::size_t from = first;
    std::size_t to = run.first;
    std::size_t count = run.rows;
    if (layout.columns()[c].ragged) {
      const std::int64_t* offsets = layout.offsets(run.block->data, c);
      from = static_cast<std::size_t>(source[c].begin_of(first));
      to = static_cast<std::size_t>(offsets[run.first]);
      count = static_cast<std::size_t>(offsets[run.first + run.rows]) - to;
      if (count == 0) continue;
    }
    std::memcpy(run.block->data + layout.columns()[c].data_at + to * item_bytes,
                source[c].data + from * item_bytes, count * item_bytes);
  }
}

void RowBlocks::append(const RowRun& from, const RowRun& to, std::uint32_t at) const noexcept {
  const BlockLayout& source = *from.block->layout;
  const BlockLayout& target = *to.block->layout;
  for (std::size_t c = 0; c < source.columns().size(); ++c) {
    const std::size_t item_bytes = source.columns()[c].item_bytes;
    std::size_t begin = from.first;
    std::size_t place = at;
    std::size_t count = from.rows;
    if (source.columns()[c].ragged) {
      const std::int64_t* there = source.offsets(from.block->data, c) + from.first;
      std::int64_t* here = target.offsets(to.block->data, c) + at;
      for (std::uint32_t i = 1; i <= from.rows; ++i) here[i] = here[0] + there[i] - there[0];
      begin = static_cast<std::size_t>(there[0]);
      place = static_cast<std::size_t>(here[0]);
      count = static_cast<std::size_t>(there[from.rows] - there[0]);
      if (count == 0) continue;
    }
    std::memcpy(to.block->data + target.columns()[c].data_at + place * item_bytes,
                from.block->data + source.columns()[c].data_at + begin * item_bytes,
                count * item_bytes);
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
  return open_another_locked(full);
}

// REQUIRES: mutex_ is held.
bool RowBlocks::open_another_locked(const Block* full) noexcept {
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
  if (block.own_memory == nullptr) {
    free_.push_back(&block);
    return;
  }
  own_bytes_ -= block.own_layout.bytes();
  delete &block;
}

std::uint64_t RowBlocks::held() const noexcept {
  const std::scoped_lock lock(mutex_);
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < carved_; ++i) {
    total += live(blocks_[i].state.load(std::memory_order_relaxed));
  }
  return total;
}

std::size_t RowBlocks::bytes_in_use() const noexcept {
  const std::scoped_lock lock(mutex_);
  return (carved_ - free_.size()) * block_bytes_ + own_bytes_;
}

}  // namespace clipper
