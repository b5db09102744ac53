// Where the states of contexts go that do not fit into an application's table, and come back from.
//
// Thread safety: all of it. The table calls under the lock of one of its shards, so whoever
// implements this neither blocks for long nor calls the table. For one context there is one call at
// a time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/event_fd.h"
#include "selection/context_slots.h"

namespace clipper {

enum class ContextLoad : std::uint8_t {
  kLoaded,    ///< here is a copy; the store keeps it
  kReturned,  ///< here it is; the store has it no more
  kAbsent,    ///< the store does not know this context
  kLater,     ///< the table will be told: ContextTable::put_loaded
  kRefused,   ///< there is no memory to ask for it
};

class ContextStore {
 public:
  virtual ~ContextStore() = default;

  /// Writes what is stored of a context to `state`, if it is at hand.
  [[nodiscard]] virtual ContextLoad load(std::uint64_t context, PolicyState state) noexcept = 0;
  /// Whether load() may say kLater.
  [[nodiscard]] virtual bool answers_later() const noexcept = 0;
  /// Whether the table may evict what has to be saved. Where it is not asked before, save() must
  /// succeed nevertheless, if there is memory.
  [[nodiscard]] virtual bool has_room() noexcept = 0;
  /// Takes a context's state. False: there was no memory for it.
  [[nodiscard]] virtual bool save(std::uint64_t context, PolicyState state) noexcept = 0;

  /// Contexts that it holds in memory, and the bytes of those.
  [[nodiscard]] virtual std::size_t held() noexcept = 0;
  [[nodiscard]] virtual std::size_t bytes() noexcept = 0;
  /// Contexts whose state is gone for want of memory.
  [[nodiscard]] virtual std::uint64_t forgotten() noexcept { return 0; }
};

/// Keeps them in this process, packed, up to a bound; beyond it forgets those that it has had for
/// longest. A context is here or in the table, never in both.
class MemoryContextStore final : public ContextStore {
 public:
  MemoryContextStore(std::size_t words, std::size_t max_bytes);

  [[nodiscard]] ContextLoad load(std::uint64_t context, PolicyState state) noexcept override;
  [[nodiscard]] bool answers_later() const noexcept override { return false; }
  [[nodiscard]] bool has_room() noexcept override { return true; }
  [[nodiscard]] bool save(std::uint64_t context, PolicyState state) noexcept override;
  [[nodiscard]] std::size_t held() noexcept override;
  [[nodiscard]] std::size_t bytes() noexcept override;
  [[nodiscard]] std::uint64_t forgotten() noexcept override;

 private:
  static constexpr std::size_t kShards = 16;

  struct alignas(64) Shard {
    Shard(std::size_t words, std::uint32_t most) : slots(words, most) {}

    std::mutex mutex;  // guards what follows
    ContextSlots slots;
    std::uint32_t oldest = 0;
    std::uint64_t forgotten = 0;
  };

  [[nodiscard]] Shard& shard_of(std::uint64_t context) noexcept;
  static void forget_one(Shard& shard) noexcept;

  std::vector<std::unique_ptr<Shard>> shards_;
};

/// States of several contexts, one after the other.
struct ContextBatch {
  std::vector<std::uint64_t> contexts;
  std::vector<double> numbers;  // words for each

  void append(std::uint64_t context, PolicyState state);
};

/// In front of a durable store that somebody else's thread reads and writes, its drainer. What was
/// saved waits here to be taken, and what is wanted is named, until the drainer comes for it.
///
/// The drainer, one thread at a time, must
///   1. take_spilled(), and write all of it,
///   2. then take_wanted(), read those, and ContextTable::put_loaded() every one, found or not,
/// in this order: so that what it reads is never older than what it has taken.
class DrainedContextStore final : public ContextStore {
 public:
  /// `max_spilled`: contexts that may wait to be written before the table stops evicting others.
  /// `doorbell`: somebody else's, which outlives it; nullptr: one of its own.
  DrainedContextStore(std::size_t words, std::uint32_t max_spilled, EventFd* doorbell = nullptr);

  [[nodiscard]] ContextLoad load(std::uint64_t context, PolicyState state) noexcept override;
  [[nodiscard]] bool answers_later() const noexcept override { return true; }
  [[nodiscard]] bool has_room() noexcept override;
  [[nodiscard]] bool save(std::uint64_t context, PolicyState state) noexcept override;
  [[nodiscard]] std::size_t held() noexcept override;
  [[nodiscard]] std::size_t bytes() noexcept override;

  /// Moves up to `most` of the contexts that must be written to the end of `batch`. Throws
  /// std::bad_alloc, and has moved nothing then that is not in the batch.
  void take_spilled(ContextBatch& batch, std::size_t most);
  /// Moves the names of up to `most` contexts that must be read to the end of `contexts`. Throws
  /// std::bad_alloc.
  void take_wanted(std::vector<std::uint64_t>& contexts, std::size_t most);
  /// Rings when there is something to take where there was nothing. Silence it, then take all.
  [[nodiscard]] EventFd& doorbell() noexcept { return *doorbell_; }

  /// While it holds, nothing that was saved goes back to the table without being written: so that
  /// a drainer that saves the whole table, shard by shard, misses none that moves meanwhile.
  void hold(bool holds) noexcept;

 private:
  // Savers that were not asked to wait: at most one for each shard of the table, and then some.
  static constexpr std::uint32_t kSlack = 256;

  const std::uint32_t max_spilled_;
  const std::unique_ptr<EventFd> own_doorbell_;
  EventFd* const doorbell_;
  std::mutex mutex_;  // guards what follows
  bool holds_ = false;
  ContextSlots spilled_;
  std::vector<std::uint64_t> wanted_;
};

}  // namespace clipper
