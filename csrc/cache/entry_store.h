// The answers that one shard of a cache keeps: a hash table of output rows within a fixed budget of
// bytes, from which the CLOCK algorithm evicts.
//
// A hand goes round over all entries. One that was used since the hand last came by is spared, and
// spared once more for each further use, up to three times; another is evicted. New entries begin
// as not used, so that rows which come once only displace one another, not what is asked for again.
// Source: Corbató, "A paging experiment with the Multics system", 1968; counting uses: Smith,
// "Sequentiality and prefetching in database systems", 1978. Each use pays for one step of
// the hand, so eviction is O(1) amortised; and where all were used it takes the least used of the
// next 1,024, so that nobody waits for a whole round.
//
// The table and its slots lie in one mapping that grows by being touched. Everything is counted:
// slots that were ever used, the table, and ragged values with what the allocator adds.
//
// Thread safety: none; the shard's lock guards it.
// Invariant: bytes() <= the budget.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/clock.h"
#include "base/output_layout.h"
#include "base/siphash.h"

namespace clipper {

class EntryStore {
 public:
  /// The layout must outlive it.
  EntryStore(const OutputLayout& layout, std::size_t budget_bytes);
  ~EntryStore() { clear(); }
  EntryStore(const EntryStore&) = delete;
  EntryStore& operator=(const EntryStore&) = delete;

  /// The least budget that holds `entries` answers of a fixed layout, or as many that are empty.
  [[nodiscard]] static std::size_t bytes_for(const OutputLayout& layout,
                                             std::uint32_t entries) noexcept;

  /// An answer that is kept and has not expired, until the next call; nullptr: there is none.
  /// Counts as its use.
  [[nodiscard]] const std::byte* find(const Hash128& key, Nanos now_ns) noexcept;
  /// Keeps row `row` of `outputs`, in place of what was known. False: it is too large, or there is
  /// no memory.
  bool put(const Hash128& key, const ColumnRows* outputs, std::uint32_t row, Nanos expires_ns,
           Nanos now_ns) noexcept;
  /// Forgets everything and gives the memory back.
  void clear() noexcept;

  [[nodiscard]] std::uint32_t entries() const noexcept { return entries_; }
  [[nodiscard]] std::uint64_t evictions() const noexcept { return evictions_; }
  /// Of memory that is in use.
  [[nodiscard]] std::size_t bytes() const noexcept {
    return table_bytes_in_use() + used_slots_ * slot_bytes_ + value_bytes_;
  }

 private:
  static constexpr std::size_t kPage = 4096;
  static constexpr std::uint8_t kMostUses = 3;
  static constexpr std::uint32_t kMostSteps = 1024;
  static constexpr std::uint32_t kNone = 0;  // links hold a slot's number + 1

  struct Slot {
    Hash128 key;
    Nanos expires_ns;
    std::uint32_t next;  // in its bucket, or in the list of free ones
    std::uint8_t uses;
    bool is_taken;
  };

  [[nodiscard]] bool map_memory() noexcept;
  [[nodiscard]] std::size_t table_bytes() const noexcept {
    return std::size_t{capacity_} * sizeof(std::uint32_t);
  }
  /// Each entry touches one page of it at most.
  [[nodiscard]] std::size_t table_bytes_in_use() const noexcept {
    return std::min(table_bytes(), used_slots_ * kPage);
  }
  [[nodiscard]] std::size_t mapped_bytes() const noexcept;
  [[nodiscard]] std::uint32_t& bucket_of(const Hash128& key) noexcept;
  [[nodiscard]] Slot& slot(std::uint32_t index) noexcept;
  [[nodiscard]] std::byte* row_of(Slot& slot) noexcept {
    return reinterpret_cast<std::byte*>(&slot) + sizeof(Slot);
  }
  [[nodiscard]] std::size_t bytes_of_values(const ColumnRows* outputs,
                                            std::uint32_t row) const noexcept;
  [[nodiscard]] std::size_t bytes_of_values(const Slot& slot) const noexcept;
  [[nodiscard]] std::uint32_t find_slot(const Hash128& key) noexcept;
  [[nodiscard]] std::uint32_t take_slot(std::size_t value_bytes, Nanos now_ns) noexcept;
  void evict_one(Nanos now_ns) noexcept;
  void remove(std::uint32_t index) noexcept;

  const OutputLayout& layout_;
  const std::size_t budget_bytes_;
  const std::size_t slot_bytes_;
  const std::uint32_t capacity_;  // slots, and buckets: chains are of one entry in the mean
  std::byte* memory_ = nullptr;   // buckets, then slots
  std::byte* slots_ = nullptr;
  std::uint32_t used_slots_ = 0;  // [0, used_slots_) have been used
  std::uint32_t free_ = kNone;
  std::uint32_t hand_ = 0;
  std::uint32_t entries_ = 0;
  std::size_t value_bytes_ = 0;  // of ragged values
  std::uint64_t evictions_ = 0;
};

}  // namespace clipper
