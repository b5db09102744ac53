// All queries of an engine, in slots that are reused but never freed while the engine lives: a
// stale handle always points at a Query, whose generation then tells that it is stale.
//
// Thread safety: all of it. The free list is a Treiber stack of slot numbers with a tag against
// ABA; last in, first out keeps the table dense and its lines warm.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "serving/query.h"

namespace clipper {

class QueryTable {
 public:
  static constexpr std::uint32_t kChunk = 256;
  static constexpr std::uint32_t kMaxSlots = 1u << 20;

  QueryTable() = default;
  ~QueryTable();
  QueryTable(const QueryTable&) = delete;
  QueryTable& operator=(const QueryTable&) = delete;

  /// A query of a new generation, with phase open; nullptr: a million queries are outstanding.
  [[nodiscard]] Query* acquire() noexcept;
  void release(Query& query) noexcept;

  /// REQUIRES: slot < slots()
  [[nodiscard]] Query& at(std::uint32_t slot) noexcept {
    return chunks_[slot / kChunk].load(std::memory_order_acquire)[slot % kChunk];
  }
  /// Slots that have ever been used.
  [[nodiscard]] std::uint32_t slots() const noexcept {
    return slots_.load(std::memory_order_acquire);
  }

 private:
  static constexpr std::uint32_t kNone = 0;  // the list holds slot + 1

  [[nodiscard]] Query* grow() noexcept;

  std::atomic<std::uint64_t> free_{kNone};  // tag : 32 | slot + 1 : 32
  std::atomic<std::uint32_t> slots_{0};
  std::mutex grow_mutex_;
  std::array<std::atomic<Query*>, kMaxSlots / kChunk> chunks_{};
};

}  // namespace clipper
