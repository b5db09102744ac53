// What a deployment has answered before, and what it is answering now.
//
// A row is looked up once: it is answered at once (hit), or waits for somebody else's evaluation
// (joined), or begins one (missed). Finding, joining and beginning are one step under one lock, and
// so are keeping an answer and ending its flight: at no moment is a row that was asked for neither
// kept nor in flight, so k equal rows cause one evaluation. Only a hit on an answer without ragged
// values needs no lock: it reads, and says so where something changed meanwhile (entry_store.h).
//
// Sharded by key; each shard has a lock, its entries and its flights. A cache belongs to one
// deployment and knows no other's entries.
//
// Thread safety: all of it.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "base/counters.h"
#include "base/output_layout.h"
#include "base/siphash.h"
#include "cache/entry_store.h"
#include "cache/flight.h"
#include "cache/flight_table.h"
#include "cache/row_hasher.h"

namespace clipper {

struct CacheOptions {
  std::size_t bytes = 0;  ///< at most so much memory is used; 0: no cache
  Nanos ttl_ns = kNever;  ///< how long an answer is good
  SipKey secret = {};     ///< random, of the engine
  std::uint64_t deployment = 0;
};

struct CacheStatistics {
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  std::uint64_t joined = 0;
  std::uint64_t evictions = 0;
  std::uint64_t entries = 0;
  std::uint64_t bytes = 0;
  std::uint64_t flights = 0;  ///< evaluations under way that may be joined
};

/// Tells the cache of queries, which live in a layer above.
class Liveness {
 public:
  virtual ~Liveness() = default;
  /// Whether somebody still waits for what the handle names. May be wrong for a moment.
  [[nodiscard]] virtual bool is_live(const Handle& handle) const noexcept = 0;
};

class PredictionCache {
 public:
  enum class Found : std::uint8_t {
    kHit,     ///< the output was copied
    kLost,    ///< it was there, but not the memory for its ragged values
    kJoined,  ///< the waiter will be answered when the flight lands
    kMissed,  ///< a flight was opened for the waiter, if there was memory for one
  };

  /// The layout must outlive it. Throws kInvalidArgument if not even one answer fits.
  PredictionCache(const CacheOptions& options, const RowSpec& input, const OutputLayout& output,
                  std::unique_ptr<Liveness> liveness);

  [[nodiscard]] Hash128 key_of(const ColumnRows* source, std::uint32_t row) const noexcept {
    return hasher_(source, row);
  }

  /// `output`: a prepared row, written on a hit. `may_join(flight)`: whether waiting for this one
  /// will do. `make_flight()`: called on a miss for a flight to open, or nullptr. Both are called
  /// under a lock.
  template <typename MayJoin, typename MakeFlight>
  [[nodiscard]] Found look_up(const Hash128& key, const Waiter& waiter, Nanos now_ns,
                              std::byte* output, MayJoin&& may_join,
                              MakeFlight&& make_flight) noexcept {
    Shard& shard = shard_of(key);
    if (shard.entries.read(key, now_ns, output)) {
      hits_.add();
      return Found::kHit;
    }
    const Lock lock(shard);
    if (const std::byte* row = shard.entries.find(key, now_ns)) {
      hits_.add();
      return layout_.copy(row, output) ? Found::kHit : Found::kLost;
    }
    if (shard.flights.count() > 0 && shard.flights.find(key, [&](Flight& flight) {
          return may_join(flight) && join(flight, waiter);
        }) != nullptr) {
      ++shard.joined;
      return Found::kJoined;
    }
    ++shard.misses;
    if (Flight* flight = make_flight()) open(shard, *flight, key, waiter);
    return Found::kMissed;
  }

  /// The row of a flight was answered: keeps the output, row `row` of `outputs`, if there is one.
  /// Its waiters are the caller's from now on, who answers them and then releases it.
  void land(Flight& flight, const ColumnRows* outputs, std::uint32_t row, Nanos now_ns) noexcept;
  /// The query that owns the flight's row is gone. Who is due first of those that still wait owns
  /// it from now on; nullopt: nobody waits, and the flight was closed and released.
  [[nodiscard]] std::optional<Waiter> pass_on(Flight& flight, Nanos now_ns) noexcept;

  /// Forgets all answers. What is being evaluated is answered, but neither kept nor joined.
  void clear() noexcept;
  /// The same for a cache that nobody will look into any more. REQUIRES: nobody looks.
  void free_memory() noexcept;

  [[nodiscard]] CacheStatistics statistics() noexcept;
  [[nodiscard]] const CacheOptions& options() const noexcept { return options_; }

 private:
  struct alignas(64) Shard {
    Shard(const OutputLayout& layout, std::size_t bytes) : entries(layout, bytes) {}

    std::mutex mutex;  // guards what follows
    std::uint64_t misses = 0;
    std::uint64_t joined = 0;
    FlightTable flights;
    EntryStore entries;
  };

  /// Holds a shard for some tens of nanoseconds: spins a little before it sleeps.
  class Lock {
   public:
    explicit Lock(Shard& shard) noexcept;
    ~Lock() { mutex_.unlock(); }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    std::mutex& mutex_;
  };

  [[nodiscard]] Shard& shard_of(const Hash128& key) noexcept {
    return *shards_[key.high & (shards_.size() - 1)];
  }
  [[nodiscard]] bool join(Flight& flight, const Waiter& waiter) noexcept;
  void open(Shard& shard, Flight& flight, const Hash128& key, const Waiter& owner) noexcept;

  const CacheOptions options_;
  const OutputLayout& layout_;
  const RowHasher hasher_;
  const std::unique_ptr<Liveness> liveness_;
  std::vector<std::unique_ptr<Shard>> shards_;  // a power of two of them
  StripedCounter hits_;
};

}  // namespace clipper
