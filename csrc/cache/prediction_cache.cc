#include "cache/prediction_cache.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/errors.h"

#ifdef __GLIBC__  // which the headers above define
#include <malloc.h>
#endif

namespace clipper {
namespace {

constexpr std::size_t kMostShards = 16;
// A shard's budget is its own: with few entries in each, keys that crowd in one would be evicted
// while others have room.
constexpr std::uint32_t kLeastEntriesPerShard = 256;
constexpr int kSpins = 64;

std::size_t shards_for(const CacheOptions& options, const OutputLayout& layout) {
  if (options.bytes < EntryStore::bytes_for(layout, 1)) {
    throw Error(ErrorCode::kInvalidArgument,
                "a cache of " + std::to_string(options.bytes) + " bytes holds no answer of " +
                    std::to_string(layout.row_bytes()) + " bytes: give it " +
                    std::to_string(EntryStore::bytes_for(layout, kLeastEntriesPerShard)) +
                    " or more");
  }
  std::size_t shards = 1;
  while (shards < kMostShards &&
         options.bytes / (2 * shards) >= EntryStore::bytes_for(layout, kLeastEntriesPerShard)) {
    shards *= 2;
  }
  return shards;
}

}  // namespace

PredictionCache::PredictionCache(const CacheOptions& options, const RowSpec& input,
                                 const OutputLayout& output, std::unique_ptr<Liveness> liveness)
    : options_(options),
      layout_(output),
      hasher_(options.secret, options.deployment, input),
      liveness_(std::move(liveness)) {
  const std::size_t shards = shards_for(options, output);
  for (std::size_t i = 0; i < shards; ++i) {
    shards_.push_back(std::make_unique<Shard>(layout_, options.bytes / shards));
  }
}

PredictionCache::Lock::Lock(Shard& shard) noexcept : mutex_(shard.mutex) {
  for (int i = 0; i < kSpins; ++i) {
    if (mutex_.try_lock()) return;
    __builtin_ia32_pause();
  }
  mutex_.lock();
}

// Waiters of a flight that takes for ever come and go: the dead make room for the living, so their
// number is bounded by that of the queries that are open. False: there is no memory for another.
bool PredictionCache::join(Flight& flight, const Waiter& waiter) noexcept {
  std::vector<Waiter>& waiters = flight.waiters;
  try {
    if (waiters.size() == waiters.capacity() && !waiters.empty()) {
      std::erase_if(waiters,
                    [this](const Waiter& other) { return !liveness_->is_live(other.handle); });
      // Half empty, or they would soon be looked through for every newcomer.
      if (2 * waiters.size() > waiters.capacity()) waiters.reserve(2 * waiters.capacity());
    }
    waiters.push_back(waiter);
  } catch (const std::bad_alloc&) {
    return false;
  }
  return true;
}

void PredictionCache::open(Shard& shard, Flight& flight, const Hash128& key,
                           const Waiter& owner) noexcept {
  flight.key = key;
  flight.cache = this;
  flight.owner = owner;
  shard.flights.add(flight);
}

void PredictionCache::land(Flight& flight, const ColumnRows* outputs, std::uint32_t row,
                           Nanos now_ns) noexcept {
  Shard& shard = shard_of(flight.key);
  const Lock lock(shard);
  const bool is_kept =
      flight.is_open && outputs != nullptr;  // else the cache was cleared meanwhile
  shard.flights.remove(flight);
  if (!is_kept) return;
  shard.entries.put(flight.key, outputs, row, saturating_add(now_ns, options_.ttl_ns), now_ns);
}

std::optional<Waiter> PredictionCache::pass_on(Flight& flight, Nanos now_ns) noexcept {
  {
    Shard& shard = shard_of(flight.key);
    const Lock lock(shard);
    // Queries whose time is up are ended by whoever watches their deadlines. A stage whose time is
    // up gets the row, to be told so.
    std::erase_if(flight.waiters, [&](const Waiter& waiter) {
      return (waiter.deadline_ns <= now_ns && !waiter.is_stages) ||
             !liveness_->is_live(waiter.handle);
    });
    const auto next = std::min_element(
        flight.waiters.begin(), flight.waiters.end(),
        [](const Waiter& a, const Waiter& b) { return a.deadline_ns < b.deadline_ns; });
    if (next != flight.waiters.end()) {
      flight.owner = *next;
      flight.waiters.erase(next);
      return flight.owner;
    }
    shard.flights.remove(flight);
  }
  Flight::release(flight, 1);
  return std::nullopt;
}

void PredictionCache::clear() noexcept {
  for (const auto& shard : shards_) {
    const Lock lock(*shard);
    shard->flights.close();
    shard->entries.clear();
  }
#ifdef __GLIBC__
  // The allocator keeps what ragged values took, in pieces, unless it is told.
  if (!layout_.is_fixed()) static_cast<void>(malloc_trim(0));
#endif
}

void PredictionCache::free_memory() noexcept {
  clear();
  for (const auto& shard : shards_) {
    const Lock lock(*shard);
    shard->entries.unmap();
  }
}

CacheStatistics PredictionCache::statistics() noexcept {
  CacheStatistics sum;
  sum.hits = hits_.read();
  for (const auto& shard : shards_) {
    const Lock lock(*shard);
    sum.misses += shard->misses;
    sum.joined += shard->joined;
    sum.evictions += shard->entries.evictions();
    sum.entries += shard->entries.entries();
    sum.bytes += shard->entries.bytes();
    sum.flights += shard->flights.count();
  }
  return sum;
}

}  // namespace clipper
