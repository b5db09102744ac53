// What an application's policy has learned: the application's own state, and one for each context.
//
// A context is one of three things:
//
//   in memory   pin() and observe() go to its state
//   elsewhere   evicted by CLOCK, saved in the store; it is loaded when somebody asks for it
//   waited for  the store will answer later: queries go by the application's own state meanwhile,
//               and what is observed is noted down, and learned when the state is there
//
// One that nobody has seen begins with what the application's own state is at that moment. One of
// which nothing was learned is not saved: it begins again. A state that a query holds is never
// evicted.
//
// Thread safety: all of it. A shard's lock is held for a look-up, an eviction, and a call of the
// store; never while a policy chooses or combines.
// Invariant: what is observed is learned exactly once, noted down, or refused and counted.
//
// With a journal what is observed lasts: it is learned under the lock of the shard, or of the own
// state, as an entry of the journal, whose number becomes the last of the state's kept numbers. So
// each state that is saved tells which entries it has in it, and replay() learns the others.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "selection/context_slots.h"
#include "selection/context_store.h"
#include "selection/feedback_journal.h"
#include "selection/policy.h"

namespace clipper {

/// Keeps a context's state where it is while a query is under way.
class ContextPin {
 public:
  ContextPin() = default;
  explicit ContextPin(PolicyState state, std::atomic<std::uint32_t>* pins = nullptr) noexcept
      : state_(state), pins_(pins) {}
  ~ContextPin() { release(); }
  ContextPin(ContextPin&& other) noexcept
      : state_(std::exchange(other.state_, {})), pins_(std::exchange(other.pins_, nullptr)) {}
  ContextPin& operator=(ContextPin&& other) noexcept {
    release();
    state_ = std::exchange(other.state_, {});
    pins_ = std::exchange(other.pins_, nullptr);
    return *this;
  }

  [[nodiscard]] PolicyState state() const noexcept { return state_; }
  void release() noexcept {
    // Pairs with the acquire of whoever evicts or saves: what was learned is seen.
    if (pins_ != nullptr) pins_->fetch_sub(1, std::memory_order_release);
    pins_ = nullptr;
    state_ = {};
  }

 private:
  PolicyState state_;
  std::atomic<std::uint32_t>* pins_ = nullptr;  // nullptr: nothing needs to be held
};

struct ContextOptions {
  static constexpr std::size_t kDefaultBytes = std::size_t{64} << 20;
  static constexpr std::size_t kLeastBytes = std::size_t{64} << 10;

  /// For contexts in memory, and for what is noted down. Not for what the store holds.
  std::size_t max_bytes = kDefaultBytes;
  std::size_t shards = 64;  ///< a power of two; fewer are made where each would have little
  /// Whether the store outlives the process: then each state has one number more, that of the last
  /// entry of the journal that it has learned.
  bool lasts = false;
  FeedbackJournal* journal = nullptr;  ///< nullptr: what is observed is not noted down
  std::uint32_t application = 0;       ///< whose entries they are
};

enum class Observed : std::uint8_t {
  kLearned,
  kNoted,    ///< it is learned when the context's state is there
  kRefused,  ///< nothing was done: too much is noted down, or there is no memory
};

/// Numbers since the start, but for the first five, which are as of now.
struct ContextCounts {
  std::size_t in_memory = 0;
  std::size_t bytes = 0;    ///< of those in memory, with all that finds them
  std::size_t stored = 0;   ///< in the store, as far as that lies in memory
  std::size_t waiting = 0;  ///< whose state the store will bring later
  std::size_t noted = 0;    ///< observations that wait for them
  std::uint64_t begun = 0;
  std::uint64_t loaded = 0;
  std::uint64_t spilled = 0;
  std::uint64_t evicted_unsaved = 0;  ///< the store had them, or nothing was learned of them
  std::uint64_t served_by_own = 0;    ///< queries with a context that went by the own state
  std::uint64_t refused = 0;          ///< observations
  std::uint64_t forgotten = 0;        ///< contexts, for want of memory
};

class ContextTable {
 public:
  /// Contexts that do not fit are kept packed in memory, too: `max_bytes` is for both, half for
  /// each, and what goes beyond it is forgotten.
  ContextTable(const Policy& policy, std::uint16_t models, std::size_t max_bytes);
  ContextTable(const Policy& policy, std::uint16_t models)
      : ContextTable(policy, models, ContextOptions::kDefaultBytes) {}
  /// REQUIRES: the policy and the journal outlive it; the store is made for kept_words() numbers,
  /// and may be missing if those are none. Throws kInvalidArgument if not one context fits.
  ContextTable(const Policy& policy, std::uint16_t models, const ContextOptions& options,
               std::unique_ptr<ContextStore> store);

  /// The application's own state, for queries without a context.
  [[nodiscard]] PolicyState own() noexcept { return {own_.get(), words_}; }
  /// The state of a context, or the application's own while the context's is not there.
  [[nodiscard]] ContextPin pin(std::uint64_t context) noexcept;
  /// The same for somebody who only looks: a context of which nothing is known is not begun, and
  /// has the application's own state.
  [[nodiscard]] ContextPin look(std::uint64_t context) noexcept;

  /// Learns from feedback on a query without a context, one row. Never kNoted.
  [[nodiscard]] Observed observe(std::span<const Observation> observations) noexcept;
  /// The same for one with a context.
  [[nodiscard]] Observed observe(std::uint64_t context,
                                 std::span<const Observation> observations) noexcept;

  /// For the store's drainer: a wanted context's state; empty: the store does not know it. What is
  /// not waited for is ignored. False: no room for it now; put it again later.
  /// REQUIRES: stored is empty or has kept_words() numbers.
  [[nodiscard]] bool put_loaded(std::uint64_t context, std::span<const double> stored) noexcept;
  /// For a drainer that also saves what stays in memory: copies those of the contexts of one shard
  /// that changed since they were last saved. Returns the number of the first entry of the journal
  /// that waits to be learned in this shard; kNoEntry: none does. Throws std::bad_alloc.
  EntryNumber take_changed(std::size_t shard, ContextBatch& batch);
  static constexpr EntryNumber kNoEntry = static_cast<EntryNumber>(-1);

  /// Copies the own state, with the number of its last entry. REQUIRES: room for kept_words().
  void save_own(double* numbers) noexcept;
  /// Before the first query. REQUIRES: kept_words() numbers.
  void restore_own(std::span<const double> numbers) noexcept;
  /// Learns what an entry says, unless the state has it in it. As observe() otherwise, but that it
  /// does not note it in the journal again.
  [[nodiscard]] Observed replay(const JournalEntry& entry) noexcept;

  [[nodiscard]] std::size_t shards() const noexcept { return shards_.size(); }
  [[nodiscard]] std::size_t words() const noexcept { return words_; }
  /// How many are kept of each state.
  [[nodiscard]] std::size_t kept_words() const noexcept { return kept_words_; }
  [[nodiscard]] ContextStore* store() noexcept { return store_.get(); }
  /// Looks at every shard in turn: no snapshot while others go on.
  [[nodiscard]] ContextCounts counts() noexcept;

 private:
  /// What was observed while a context's state was waited for.
  struct Group {
    std::uint32_t observations = 0;  // that belong together
    EntryNumber number = 0;          // 0: there is no journal
  };
  struct Notes {
    std::vector<Observation> observations;
    std::vector<Group> groups;
  };

  struct alignas(64) Shard {
    Shard(std::size_t words, std::uint32_t most) : slots(words, most) {}

    std::mutex mutex;  // guards what follows
    ContextSlots slots;
    std::unordered_map<std::uint64_t, Notes> waiting;
    std::uint32_t hand = 0;
    ContextCounts counts;
  };

  [[nodiscard]] static constexpr std::size_t note_bytes(std::size_t observations) noexcept {
    return observations * sizeof(Observation) + sizeof(Group);
  }
  static constexpr std::size_t kWaitingBytes = 160;  // a node of the map, and two vectors' heads

  void make_shards(const ContextOptions& options);
  [[nodiscard]] Shard& shard_of(std::uint64_t context) noexcept;
  [[nodiscard]] ContextSlot* resident(Shard& shard, std::uint64_t context) noexcept;
  [[nodiscard]] ContextSlot* fetch(Shard& shard, std::uint64_t context) noexcept;
  [[nodiscard]] ContextLoad load(Shard& shard, std::uint64_t context, PolicyState state) noexcept;
  [[nodiscard]] ContextSlot* add(Shard& shard, std::uint64_t context) noexcept;
  [[nodiscard]] bool evict_one(Shard& shard) noexcept;
  void begin(PolicyState kept) noexcept;
  [[nodiscard]] ContextPin hold(Shard& shard, ContextSlot& slot) const noexcept;
  /// What is learned, and whether it has to be entered in the journal first.
  struct Lesson {
    std::span<const Observation> observations;
    EntryNumber number = 0;  // of an entry that is replayed
  };
  [[nodiscard]] Observed learn(std::uint64_t context, const Lesson& lesson) noexcept;
  [[nodiscard]] Observed note(Shard& shard, std::uint64_t context, const Lesson& lesson) noexcept;
  [[nodiscard]] Observed learn_in_passing(Shard& shard, std::uint64_t context,
                                          const Lesson& lesson) noexcept;
  template <typename Learn>
  [[nodiscard]] bool enter(std::uint64_t context, bool has_context, const Lesson& lesson,
                           Learn&& learns) noexcept;
  void apply(const Lesson& lesson, EntryNumber number, PolicyState kept) const noexcept;
  void apply(const Notes& notes, PolicyState kept) const noexcept;
  [[nodiscard]] PolicyState of_policy(PolicyState kept) const noexcept {
    return kept.first(words_);
  }
  void forget_waiting(Shard& shard, std::uint64_t context) noexcept;
  [[nodiscard]] bool charge(std::size_t bytes) noexcept;
  [[nodiscard]] PolicyState scratch(std::unique_ptr<std::atomic<double>[]>& numbers) const noexcept;

  const Policy& policy_;
  const std::size_t words_;
  const std::size_t kept_words_;
  const bool watches_;
  FeedbackJournal* const journal_;
  const std::uint32_t application_;
  std::mutex own_mutex_;  // guards learning in the own state, if there is a journal
  const std::unique_ptr<std::atomic<double>[]> own_;
  const std::unique_ptr<ContextStore> store_;
  std::size_t max_noted_bytes_ = 0;
  std::atomic<std::size_t> noted_bytes_{0};  // of all that waits
  std::vector<std::unique_ptr<Shard>> shards_;
};

}  // namespace clipper
