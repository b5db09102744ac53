// One accepted query: what is asked of which models, and the one place where its answer is decided.
//
// Every query ends exactly once: finish() is one compare-and-swap on its phase, and whoever loses
// it is counted and dropped. Each ask (one evaluation on one model) takes outputs from the drivers
// that hold its current attempt, until it is sealed; from then on nothing is written.
//
// Thread safety: as each member says. The owner is whoever called Engine::submit, or whom the
// mailbox hands the query to.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/clock.h"
#include "base/errors.h"
#include "base/output_layout.h"
#include "queue/mailbox.h"
#include "queue/waiting_rows.h"
#include "selection/context_table.h"

namespace clipper {

class Application;
class Deployment;
class Plan;
class Stages;
struct ShadowTrial;

/// In place of a cause while no driver has answered the row.
inline constexpr Cause kPending = static_cast<Cause>(0xff);
/// In place of a cause where a query's plan did not lead to this stage.
inline constexpr Cause kSkipped = static_cast<Cause>(0xfe);

/// Outputs of one ask, one row after the other. Small ones lie inline; larger ones are handed over.
class OutputRows {
 public:
  static constexpr std::size_t kInlineBytes = 64;

  OutputRows() = default;
  ~OutputRows() { clear(); }
  OutputRows(const OutputRows&) = delete;
  OutputRows& operator=(const OutputRows&) = delete;

  /// Room for prepared rows. The layout must outlive them. Throws std::bad_alloc.
  void allocate(const OutputLayout& layout, std::uint32_t rows);
  [[nodiscard]] std::byte* data() noexcept { return heap_ ? heap_.get() : inline_.data(); }
  [[nodiscard]] bool is_inline() const noexcept { return heap_ == nullptr; }
  /// Gives the memory to the caller, who frees it with delete[]. REQUIRES: !is_inline(), and rows
  /// of a fixed layout.
  [[nodiscard]] std::byte* take() noexcept { return heap_.release(); }
  void clear() noexcept;

 private:
  const OutputLayout* layout_ = nullptr;  // of rows that own something
  std::uint32_t rows_ = 0;
  std::unique_ptr<std::byte[]> heap_;
  alignas(16) std::array<std::byte, kInlineBytes> inline_{};
};

/// One evaluation of a query's rows on one model.
class Ask {
 public:
  /// REQUIRES: exclusive access. Throws std::bad_alloc.
  void open(Deployment* deployment, const OutputLayout* layout, const Choice& choice,
            std::uint32_t rows, std::uint32_t generation);

  /// Whether a handle's attempt is the current one and still wanted. Any thread.
  [[nodiscard]] bool wants(const Handle& handle) const noexcept;

  /// Claims the right to write; false: the ask was sealed or retried meanwhile. Any thread. Until
  /// end_write() the query cannot be reused, because its owner seals it first.
  [[nodiscard]] bool begin_write(const Handle& handle) noexcept;
  /// Publishes `rows` written rows. True: they were the last, and the ask is complete.
  [[nodiscard]] bool publish(std::uint32_t rows) noexcept;
  void end_write() noexcept;

  /// Nothing is written from here on. Waits for a writer in mid-copy (a memcpy at most). Owner
  /// only. True: rows were still missing.
  bool seal() noexcept;

  /// Sets the cause of rows [offset, offset + rows). REQUIRES: between begin_write and publish.
  void set_cause(std::uint32_t offset, std::uint32_t rows, Cause cause) noexcept;
  /// kPending: no driver has answered the row. REQUIRES: sealed.
  [[nodiscard]] Cause cause(std::uint32_t row) const noexcept {
    return row_causes_ ? row_causes_[row] : cause_;
  }

  /// Rows without an answer so far.
  [[nodiscard]] std::uint32_t rows_left() const noexcept;

  [[nodiscard]] Deployment* deployment() const noexcept { return deployment_; }
  [[nodiscard]] std::uint16_t model_index() const noexcept { return model_index_; }
  /// How probable it was that this model would be asked.
  [[nodiscard]] float propensity() const noexcept { return propensity_; }
  [[nodiscard]] OutputRows& outputs() noexcept { return outputs_; }

  /// When the row's batch began, and which of the deployment's recent errors explains kModelError
  /// (0: none). Drivers: between begin_write and publish. Read when sealed.
  void note(Nanos started_ns, std::uint32_t error_id) noexcept;
  [[nodiscard]] Nanos started_ns() const noexcept {
    return started_ns_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint32_t error_id() const noexcept {
    return error_id_.load(std::memory_order_relaxed);
  }
  /// Gives rows that nobody answered `cause`. REQUIRES: sealed.
  void settle(std::uint32_t rows, Cause cause) noexcept;
  /// One per row. REQUIRES: more than one row.
  [[nodiscard]] const Cause* causes() const noexcept { return row_causes_.get(); }

 private:
  // generation : 24 | attempt : 8 | sealed : 1 | writers : 7 | remaining rows : 24
  std::atomic<std::uint64_t> word_{0};
  Deployment* deployment_ = nullptr;
  std::uint16_t model_index_ = 0;
  float propensity_ = 1.0F;
  Cause cause_ = Cause::kNone;
  std::unique_ptr<Cause[]> row_causes_;  // only when there is more than one row
  OutputRows outputs_;
  // Atomic, because two replicas may answer parts of one ask at once.
  std::atomic<Nanos> started_ns_{0};
  std::atomic<std::uint32_t> error_id_{0};
};

inline constexpr std::uint32_t kMaxQueryRows = (1u << 24) - 1;
inline constexpr std::uint16_t kMaxAsks = kMaxModels;

class alignas(64) Query : public Letter {
 public:
  Query();
  ~Query();
  Query(const Query&) = delete;
  Query& operator=(const Query&) = delete;
  // The phase is a futex word: generation : 29 | awaited : 1 | done : 1 | finishing : 1.
  static constexpr std::uint32_t kFinishing = 1;  // somebody has won the decision
  static constexpr std::uint32_t kDone = 2;       // and has published it
  static constexpr std::uint32_t kAwaited = 4;    // a thread is parked on the word
  static constexpr int kGenerationShift = 3;

  /// Room for `count` asks, which once made stays: a stale handle may look into it at any time.
  /// REQUIRES: exclusive access, count <= kMaxAsks. Throws std::bad_alloc.
  void make_room(std::size_t count);
  /// REQUIRES: exclusive access. Everything that submit sets is published with it.
  void open() noexcept;

  /// The one decision: wakes or notifies the owner. False: it was taken before; the loser drops
  /// what it has. REQUIRES: the query cannot be reused meanwhile (its owner calls, or a writer of
  /// an ask).
  bool finish(Cause cause, Nanos now_ns) noexcept;
  /// The same for an onlooker, who has seen `open_phase`: fails if the query was reused since.
  bool finish_if(std::uint32_t open_phase, Cause cause, Nanos now_ns) noexcept;

  [[nodiscard]] bool is_done() const noexcept {
    return (phase.load(std::memory_order_acquire) & kDone) != 0;
  }
  [[nodiscard]] static bool is_open(std::uint32_t phase) noexcept {
    return (phase & kFinishing) == 0;
  }
  /// From now on the owner is told through `box`. False: the query is done already. Owner only.
  [[nodiscard]] bool attach(Mailbox& box) noexcept;
  [[nodiscard]] Ask& ask(std::size_t index) noexcept {
    return index == 0 ? first_ask : more_asks_.load(std::memory_order_acquire)[index - 1];
  }

  // Set by submit; constant while the query is open.
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;
  std::uint32_t rows = 0;
  std::uint16_t asks = 0;
  Priority priority = 0;
  Application* application = nullptr;
  ContextPin context;             // what the policy goes by, from choosing to collecting
  std::uint64_t context_key = 0;  // hash of the caller's context
  bool has_context = false;
  Nanos arrived_ns = 0;
  Nanos deadline_ns = kNever;   // when its caller must hold the answer
  Nanos answer_by_ns = kNever;  // deadline less the reserve for waking and combining
  void* owner = nullptr;        // opaque: whose it is on the other side of the boundary
  /// When the reaper must end it; kNever: somebody waits for it, or it has no deadline.
  std::atomic<Nanos> reap_at_ns{kNever};

  // Decided by finish().
  std::atomic<std::uint32_t> phase{kFinishing | kDone};
  std::atomic<Cause> end_cause{Cause::kNone};
  std::atomic<Nanos> done_ns{0};
  std::atomic<Mailbox*> mailbox{nullptr};

  std::atomic<std::uint32_t> asks_left{0};
  Ask first_ask;

  // Of a query that goes through stages; its asks are the plan's stages then, in their order.
  const Plan* plan = nullptr;
  std::unique_ptr<Stages> stages;  // kept for the next one

  // Shadows: of a caller's query those that were asked too; of a shadow's its own part.
  ShadowTrial* shadows = nullptr;
  std::unique_ptr<ShadowTrial> trial;

  // Filled by collect() when several models were asked.
  OutputRows combined;
  std::unique_ptr<Cause[]> combined_causes;
  std::unique_ptr<float[]> confidences;

  std::atomic<std::uint32_t> next_free{0};  // the query table's list

 private:
  void publish_decision(Cause cause, Nanos now_ns) noexcept;

  std::atomic<Ask*> more_asks_{nullptr};
};

}  // namespace clipper
