// The flights of one shard, by their keys.
//
// Several may have one key: who cannot wait for the first begins another.
//
// Thread safety: none; the shard's lock guards it.
// Lifetime: flights that nobody removed, because their rows never ended, are released with it.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "cache/flight.h"

namespace clipper {

class FlightTable {
 public:
  FlightTable() : buckets_(kFirstBuckets) {}
  ~FlightTable() {
    for (Flight* flight : buckets_) {
      while (flight != nullptr) Flight::release(*std::exchange(flight, flight->next_in_bucket), 1);
    }
  }
  FlightTable(const FlightTable&) = delete;
  FlightTable& operator=(const FlightTable&) = delete;

  /// Calls `visit` for each open flight of this key until it returns true: that flight, else
  /// nullptr.
  template <typename Visit>
  [[nodiscard]] Flight* find(const Hash128& key, Visit&& visit) noexcept {
    for (Flight* at = bucket_of(key); at != nullptr; at = at->next_in_bucket) {
      if (at->key == key && at->is_open && visit(*at)) return at;
    }
    return nullptr;
  }

  /// Adds an open flight.
  void add(Flight& flight) noexcept {
    if (count_ >= buckets_.size()) grow();
    Flight*& bucket = bucket_of(flight.key);
    flight.next_in_bucket = bucket;
    flight.is_open = true;
    bucket = &flight;
    ++count_;
  }

  void remove(Flight& flight) noexcept {
    Flight** link = &bucket_of(flight.key);
    while (*link != &flight) link = &(*link)->next_in_bucket;
    *link = flight.next_in_bucket;
    flight.is_open = false;
    --count_;
  }

  /// Nobody joins those that are here any more.
  void close() noexcept {
    for (Flight* flight : buckets_) {
      for (; flight != nullptr; flight = flight->next_in_bucket) flight->is_open = false;
    }
  }

  [[nodiscard]] std::size_t count() const noexcept { return count_; }

 private:
  static constexpr std::size_t kFirstBuckets = 16;

  [[nodiscard]] Flight*& bucket_of(const Hash128& key) noexcept {
    return buckets_[key.low & (buckets_.size() - 1)];
  }

  // Without memory for more, chains get longer.
  void grow() noexcept {
    std::vector<Flight*> former;
    try {
      former.resize(2 * buckets_.size());
    } catch (const std::bad_alloc&) {
      return;
    }
    former.swap(buckets_);
    for (Flight* flight : former) {
      while (flight != nullptr) {
        Flight* next = flight->next_in_bucket;
        Flight*& bucket = bucket_of(flight->key);
        flight->next_in_bucket = bucket;
        bucket = flight;
        flight = next;
      }
    }
  }

  std::vector<Flight*> buckets_;  // a power of two of them
  std::size_t count_ = 0;
};

}  // namespace clipper
