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
// Answers without ragged values can be read without the lock: a sequence lock tells the reader
// whether something changed meanwhile. Reading one that is hot writes nothing, so that threads
// which hit the same shard do not take its cache line from each other. Source: Boehm, "Can seqlocks
// get along with programming language memory models?", MSPC 2012.
//
// Thread safety: read() at any time; for the rest the shard's lock guards it.
// Invariants: bytes() <= the budget; what read() may look at is changed within a Change only, word
// by word, and stays mapped.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/clock.h"
#include "base/output_layout.h"
#include "base/siphash.h"

namespace clipper {

class EntryStore {
 public:
  /// The layout must outlive it.
  EntryStore(const OutputLayout& layout, std::size_t budget_bytes);
  ~EntryStore() { unmap(); }
  EntryStore(const EntryStore&) = delete;
  EntryStore& operator=(const EntryStore&) = delete;

  /// The least budget that holds `entries` answers of a fixed layout, or as many that are empty.
  [[nodiscard]] static std::size_t bytes_for(const OutputLayout& layout,
                                             std::uint32_t entries) noexcept;

  /// An answer that is kept and has not expired, until the next call; nullptr: there is none.
  /// Counts as its use.
  [[nodiscard]] const std::byte* find(const Hash128& key, Nanos now_ns) noexcept;
  /// Copies an answer to `output` if it is kept, has not expired, and nobody changes anything just
  /// now. Counts as its use. Never where rows own ragged values.
  [[nodiscard]] bool read(const Hash128& key, Nanos now_ns, std::byte* output) noexcept;
  /// Keeps row `row` of `outputs`, in place of what was known. False: it is too large, or there is
  /// no memory.
  bool put(const Hash128& key, const ColumnRows* outputs, std::uint32_t row, Nanos expires_ns,
           Nanos now_ns) noexcept;
  /// Forgets everything and gives the memory back.
  void clear() noexcept;
  /// The same, and the addresses too. REQUIRES: nobody reads.
  void unmap() noexcept;

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

  /// While it lives, whoever reads knows that things change.
  class Change {
   public:
    explicit Change(EntryStore& store) noexcept : version_(store.version_) { add_one(); }
    // Release: who sees the new version sees all that came before.
    ~Change() { add_one(); }
    Change(const Change&) = delete;
    Change& operator=(const Change&) = delete;

   private:
    void add_one() noexcept {  // by one thread at a time
      version_.store(version_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    }

    std::atomic<std::uint32_t>& version_;
  };

  [[nodiscard]] std::uint32_t find_to_read(const Hash128& key) const noexcept;
  void write_row(Slot& to, const std::byte* row) noexcept;
  [[nodiscard]] bool map_memory() noexcept;
  [[nodiscard]] std::size_t table_bytes() const noexcept {
    return std::size_t{capacity_} * sizeof(std::uint32_t);
  }
  /// Each entry touches one page of it at most.
  [[nodiscard]] std::size_t table_bytes_in_use() const noexcept {
    return std::min(table_bytes(), used_slots_ * kPage);
  }
  [[nodiscard]] std::size_t mapped_bytes() const noexcept;
  [[nodiscard]] std::uint32_t& bucket_of(const Hash128& key) const noexcept;
  [[nodiscard]] Slot& slot(std::uint32_t index) const noexcept;
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
  void forget_all() noexcept;

  const OutputLayout& layout_;
  const std::size_t budget_bytes_;
  const std::size_t slot_bytes_;
  const std::uint32_t capacity_;  // slots, and buckets: chains are of one entry in the mean
  // Odd while something changes. It has a line of its own with what never changes.
  alignas(64) std::atomic<std::uint32_t> version_{0};
  std::byte* slots_ = nullptr;               // set before memory_
  std::atomic<std::byte*> memory_{nullptr};  // buckets, then slots
  std::unique_ptr<std::byte[]> row_to_write_;
  alignas(64) std::uint32_t used_slots_ = 0;  // [0, used_slots_) have been used
  std::uint32_t free_ = kNone;
  std::uint32_t hand_ = 0;
  std::uint32_t entries_ = 0;
  std::size_t value_bytes_ = 0;  // of ragged values
  std::uint64_t evictions_ = 0;
};

}  // namespace clipper
