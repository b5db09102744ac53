#include "serving/query_table.h"

#include <new>

namespace clipper {
namespace {

constexpr std::uint64_t kSlotMask = 0xffffffffu;
constexpr std::uint64_t kTag = std::uint64_t{1} << 32;

}  // namespace

QueryTable::~QueryTable() {
  for (auto& chunk : chunks_) delete[] chunk.load(std::memory_order_relaxed);
}

Query* QueryTable::acquire() noexcept {
  Query* query = nullptr;
  std::uint64_t head = free_.load(std::memory_order_acquire);
  while ((head & kSlotMask) != kNone) {
    Query& first = at(static_cast<std::uint32_t>(head & kSlotMask) - 1);
    const std::uint64_t next =
        ((head & ~kSlotMask) + kTag) | first.next_free.load(std::memory_order_relaxed);
    if (free_.compare_exchange_weak(head, next, std::memory_order_acquire)) {
      query = &first;
      break;
    }
  }
  if (query == nullptr) query = grow();
  if (query == nullptr) return nullptr;
  ++query->generation;
  return query;
}

void QueryTable::release(Query& query) noexcept {
  std::uint64_t head = free_.load(std::memory_order_relaxed);
  std::uint64_t next = 0;
  do {
    query.next_free.store(static_cast<std::uint32_t>(head & kSlotMask), std::memory_order_relaxed);
    next = ((head & ~kSlotMask) + kTag) | (query.slot + 1);
  } while (!free_.compare_exchange_weak(head, next, std::memory_order_release,
                                        std::memory_order_relaxed));
}

Query* QueryTable::grow() noexcept {
  const std::scoped_lock lock(grow_mutex_);
  const std::uint32_t slot = slots_.load(std::memory_order_relaxed);
  if (slot == kMaxSlots) return nullptr;
  std::atomic<Query*>& chunk = chunks_[slot / kChunk];
  if (chunk.load(std::memory_order_relaxed) == nullptr) {
    auto* queries = new (std::nothrow) Query[kChunk];
    if (queries == nullptr) return nullptr;
    for (std::uint32_t i = 0; i < kChunk; ++i) queries[i].slot = slot + i;
    chunk.store(queries, std::memory_order_release);
  }
  slots_.store(slot + 1, std::memory_order_release);
  return &at(slot);
}

}  // namespace clipper
