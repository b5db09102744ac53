#include "cache/entry_store.h"

#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <limits>
#include <new>

namespace clipper {
namespace {

constexpr std::size_t kAlignment = 16;  // of output rows
constexpr std::size_t kLeastAllocation = 32;
constexpr std::size_t kOwnMapping = std::size_t{128} << 10;  // allocations of so much get their own

constexpr std::size_t align_up(std::size_t bytes, std::size_t to) {
  return (bytes + to - 1) / to * to;
}

// What glibc takes for an allocation.
constexpr std::size_t allocated(std::size_t bytes, std::size_t page = 4096) {
  if (bytes == 0) return 0;
  if (bytes >= kOwnMapping) return align_up(bytes + kAlignment, page);
  return std::max(align_up(bytes + sizeof(std::size_t), kAlignment), kLeastAllocation);
}

// What read() may look at meanwhile. Acquire and release, so that who sees a part of a change sees
// that there is one: on x86 they cost nothing.
template <typename Word>
Word peek(const Word& at) noexcept {
  return std::atomic_ref<Word>(const_cast<Word&>(at)).load(std::memory_order_acquire);
}

template <typename Word>
void poke(Word& at, Word value) noexcept {
  std::atomic_ref<Word>(at).store(value, std::memory_order_release);
}

// Calls `move(offset, word)` for `bytes` bytes, word by word.
template <typename Move>
void for_words(std::size_t bytes, Move&& move) noexcept {
  std::size_t at = 0;
  for (; at + sizeof(std::uint64_t) <= bytes; at += sizeof(std::uint64_t)) {
    move(at, std::uint64_t{});
  }
  for (; at < bytes; ++at) move(at, std::uint8_t{});
}

constexpr int kLongestChain = 32;  // longer ones, or those that change meanwhile, take the lock

std::size_t least_value_bytes(const OutputLayout& layout) {
  std::size_t bytes = 0;
  for (const OutputLayout::Column& column : layout.columns()) {
    if (column.ragged) bytes += kLeastAllocation;
  }
  return bytes;
}

}  // namespace

std::size_t EntryStore::bytes_for(const OutputLayout& layout, std::uint32_t entries) noexcept {
  return entries * (align_up(sizeof(Slot) + layout.row_bytes(), kAlignment) +
                    least_value_bytes(layout) + sizeof(std::uint32_t));
}

EntryStore::EntryStore(const OutputLayout& layout, std::size_t budget_bytes)
    : layout_(layout),
      budget_bytes_(budget_bytes),
      slot_bytes_(align_up(sizeof(Slot) + layout.row_bytes(), kAlignment)),
      capacity_(static_cast<std::uint32_t>(std::min<std::size_t>(
          budget_bytes / bytes_for(layout, 1), std::numeric_limits<std::uint32_t>::max() - 1))) {}

std::size_t EntryStore::mapped_bytes() const noexcept {
  return align_up(table_bytes(), kAlignment) + capacity_ * slot_bytes_;
}

bool EntryStore::map_memory() noexcept {
  row_to_write_.reset(new (std::nothrow) std::byte[layout_.row_bytes()]());
  if (row_to_write_ == nullptr) return false;
  void* memory = mmap(nullptr, mapped_bytes(), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return false;
  // A huge page would be resident for one entry's sake.
  static_cast<void>(madvise(memory, mapped_bytes(), MADV_NOHUGEPAGE));
  slots_ = static_cast<std::byte*>(memory) + align_up(table_bytes(), kAlignment);
  memory_.store(static_cast<std::byte*>(memory), std::memory_order_release);
  return true;
}

std::uint32_t& EntryStore::bucket_of(const Hash128& key) const noexcept {
  // The upper half of 32 bits times the number of buckets: no division.
  const std::uint64_t index = ((key.low & 0xffffffffU) * capacity_) >> 32;
  return reinterpret_cast<std::uint32_t*>(memory_.load(std::memory_order_relaxed))[index];
}

EntryStore::Slot& EntryStore::slot(std::uint32_t index) const noexcept {
  return *reinterpret_cast<Slot*>(slots_ + index * slot_bytes_);
}

std::size_t EntryStore::bytes_of_values(const ColumnRows* outputs,
                                        std::uint32_t row) const noexcept {
  std::size_t bytes = 0;
  if (layout_.is_fixed()) return bytes;
  for (const OutputLayout::Column& column : layout_.columns()) {
    const ColumnRows& from = *outputs++;
    if (!column.ragged) continue;
    const auto items = static_cast<std::size_t>(from.begin_of(row + 1) - from.begin_of(row));
    bytes += allocated(items * column.item_bytes);
  }
  return bytes;
}

std::size_t EntryStore::bytes_of_values(const Slot& slot) const noexcept {
  std::size_t bytes = 0;
  if (layout_.is_fixed()) return bytes;
  const std::byte* row = reinterpret_cast<const std::byte*>(&slot) + sizeof(Slot);
  for (const OutputLayout::Column& column : layout_.columns()) {
    if (!column.ragged) continue;
    const auto items = static_cast<std::size_t>(OutputLayout::cell(row, column).items);
    bytes += allocated(items * column.item_bytes);
  }
  return bytes;
}

std::uint32_t EntryStore::find_slot(const Hash128& key) noexcept {
  if (memory_.load(std::memory_order_relaxed) == nullptr) return kNone;
  std::uint32_t at = bucket_of(key);
  while (at != kNone && slot(at - 1).key != key) at = slot(at - 1).next;
  return at;
}

const std::byte* EntryStore::find(const Hash128& key, Nanos now_ns) noexcept {
  const std::uint32_t at = find_slot(key);
  if (at == kNone) return nullptr;
  Slot& found = slot(at - 1);
  if (found.expires_ns <= now_ns) {
    const Change change(*this);
    remove(at - 1);
    return nullptr;
  }
  const std::uint8_t uses = peek(found.uses);
  if (uses < kMostUses) poke(found.uses, static_cast<std::uint8_t>(uses + 1));
  return row_of(found);
}

std::uint32_t EntryStore::find_to_read(const Hash128& key) const noexcept {
  std::uint32_t at = peek(bucket_of(key));
  for (int step = 0; at != kNone && step < kLongestChain; ++step) {
    const Slot& seen = slot(at - 1);
    if (peek(seen.key.low) == key.low && peek(seen.key.high) == key.high) return at;
    at = peek(seen.next);
  }
  return kNone;
}

bool EntryStore::read(const Hash128& key, Nanos now_ns, std::byte* output) noexcept {
  if (!layout_.is_fixed() || memory_.load(std::memory_order_acquire) == nullptr) return false;
  const std::uint32_t version = version_.load(std::memory_order_acquire);
  if (version % 2 != 0) return false;
  const std::uint32_t at = find_to_read(key);
  if (at == kNone) return false;
  Slot& found = slot(at - 1);
  if (peek(found.expires_ns) <= now_ns) return false;
  const std::uint8_t uses = peek(found.uses);
  std::byte* row = row_of(found);
  for_words(layout_.row_bytes(), [&](std::size_t offset, auto word) {
    word = peek(reinterpret_cast<const decltype(word)&>(row[offset]));
    std::memcpy(output + offset, &word, sizeof word);
  });
  if (version_.load(std::memory_order_relaxed) != version) return false;
  // A hot one is only read. Should the slot be another's by now, that one is spared once more.
  if (uses < kMostUses) poke(found.uses, static_cast<std::uint8_t>(uses + 1));
  return true;
}

void EntryStore::write_row(Slot& to, const std::byte* row) noexcept {
  for_words(layout_.row_bytes(), [&](std::size_t offset, auto word) {
    std::memcpy(&word, row + offset, sizeof word);
    poke(reinterpret_cast<decltype(word)&>(row_of(to)[offset]), word);
  });
}

bool EntryStore::put(const Hash128& key, const ColumnRows* outputs, std::uint32_t row,
                     Nanos expires_ns, Nanos now_ns) noexcept {
  if (capacity_ == 0) return false;
  if (memory_.load(std::memory_order_relaxed) == nullptr && !map_memory()) return false;
  const Change change(*this);
  std::uint8_t uses = 0;
  if (const std::uint32_t known = find_slot(key); known != kNone) {
    uses = peek(slot(known - 1).uses);
    remove(known - 1);
  }
  const std::size_t bytes = bytes_of_values(outputs, row);
  const std::uint32_t at = take_slot(bytes, now_ns);
  if (at == kNone) return false;
  Slot& made = slot(at - 1);
  if (layout_.is_fixed()) {
    static_cast<void>(layout_.write(row_to_write_.get(), outputs, row, 1));  // it needs no memory
    write_row(made, row_to_write_.get());
  } else {
    layout_.prepare(row_of(made), 1);
    if (!layout_.write(row_of(made), outputs, row, 1)) {
      layout_.clear(row_of(made), 1);
      poke(made.next, free_);
      free_ = at;
      return false;
    }
  }
  poke(made.key.low, key.low);
  poke(made.key.high, key.high);
  poke(made.expires_ns, expires_ns);
  poke(made.uses, uses);
  made.is_taken = true;
  std::uint32_t& bucket = bucket_of(key);
  poke(made.next, bucket);
  poke(bucket, at);
  value_bytes_ += bytes;
  ++entries_;
  return true;
}

// A slot that is nobody's, once there is room for it and its values.
std::uint32_t EntryStore::take_slot(std::size_t value_bytes, Nanos now_ns) noexcept {
  if (table_bytes() + slot_bytes_ + value_bytes > budget_bytes_) return kNone;
  for (;;) {
    const bool is_new = free_ == kNone && used_slots_ < capacity_;
    const std::size_t more_bytes = value_bytes + (is_new ? slot_bytes_ : 0);
    if ((is_new || free_ != kNone) && bytes() + more_bytes <= budget_bytes_) break;
    if (entries_ > 0) {
      evict_one(now_ns);
    } else {
      forget_all();  // slots of many small answers leave no room for a large one: begin anew
    }
  }
  if (free_ == kNone) return ++used_slots_;
  const std::uint32_t at = free_;
  free_ = slot(at - 1).next;
  return at;
}

// REQUIRES: there is an entry.
void EntryStore::evict_one(Nanos now_ns) noexcept {
  std::uint32_t victim = kNone;
  std::uint8_t uses = kMostUses;
  for (std::uint32_t step = 0; step < kMostSteps || victim == kNone; ++step) {
    const std::uint32_t at = hand_;
    hand_ = hand_ + 1 < used_slots_ ? hand_ + 1 : 0;
    Slot& seen = slot(at);
    if (!seen.is_taken) continue;
    const std::uint8_t its_uses = peek(seen.uses);
    if (its_uses == 0 || seen.expires_ns <= now_ns) {
      victim = at + 1;
      break;
    }
    if (victim == kNone || its_uses < uses) {
      victim = at + 1;
      uses = its_uses;
    }
    poke(seen.uses, static_cast<std::uint8_t>(its_uses - 1));
  }
  remove(victim - 1);
  ++evictions_;
}

void EntryStore::remove(std::uint32_t index) noexcept {
  Slot& removed = slot(index);
  std::uint32_t* link = &bucket_of(removed.key);
  while (*link != index + 1) link = &slot(*link - 1).next;
  poke(*link, removed.next);
  value_bytes_ -= bytes_of_values(removed);
  layout_.clear(row_of(removed), 1);
  removed.is_taken = false;
  poke(removed.next, free_);
  free_ = index + 1;
  --entries_;
}

void EntryStore::clear() noexcept {
  if (memory_.load(std::memory_order_relaxed) == nullptr) return;
  const Change change(*this);
  forget_all();
}

// Pages that are given back read as zeros: no bucket has an entry.
void EntryStore::forget_all() noexcept {
  std::byte* memory = memory_.load(std::memory_order_relaxed);
  if (!layout_.is_fixed()) {
    for (std::uint32_t i = 0; i < used_slots_; ++i) {
      if (slot(i).is_taken) layout_.clear(row_of(slot(i)), 1);
    }
  }
  if (madvise(memory, mapped_bytes(), MADV_DONTNEED) != 0) std::memset(memory, 0, table_bytes());
  used_slots_ = entries_ = hand_ = 0;
  free_ = kNone;
  value_bytes_ = 0;
}

void EntryStore::unmap() noexcept {
  std::byte* memory = memory_.load(std::memory_order_relaxed);
  if (memory == nullptr) return;
  clear();
  static_cast<void>(munmap(memory, mapped_bytes()));
  memory_.store(nullptr, std::memory_order_relaxed);
}

}  // namespace clipper
