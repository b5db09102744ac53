// One deploy of one version of a model: its rows, its queue and window, its replicas. Caches and
// metrics are keyed by it.
//
// Thread safety: all of it, except where a driver is required. Deployments are never destroyed
// while their engine lives, so a stale pointer is always safe to enter(), and then tells that it is
// closed.
//
// Invariants: rows pushed = rows claimed + rows dropped + rows waiting. A row is claimed by one
// driver.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "base/errors.h"
#include "base/output_layout.h"
#include "base/tensor.h"
#include "cache/prediction_cache.h"
#include "queue/request_queue.h"
#include "queue/row_blocks.h"
#include "queue/window.h"
#include "serving/alarm_bell.h"
#include "serving/quarantine.h"
#include "serving/query_table.h"
#include "serving/replica.h"
#include "statistics/model_statistics.h"

namespace clipper {

struct DeploymentOptions {
  RowSpec input;
  RowSpec output;
  /// Rows whose first ragged input is at most so long form batches of their own; ascending.
  std::vector<std::int64_t> lane_edges;
  std::uint32_t max_queue = 16384;                        ///< requests that may wait, at first
  std::size_t row_budget_bytes = std::size_t{256} << 20;  ///< memory for waiting rows
  std::uint32_t max_batch = 4096;                         ///< at first
  std::uint32_t most_batch = std::numeric_limits<std::uint32_t>::max();  ///< max_batch ever
  std::uint32_t most_in_flight = 1;
  bool caller_runs = true;
  bool callers_carry = false;  ///< of batches that run elsewhere: see Loan
  CacheOptions cache;
  StatisticsOptions statistics;
};

/// Rows that a driver took off the window because they cannot be run any more.
struct DroppedRows {
  WaitingRows entry;  ///< without a block: the rows themselves went to another query
  Cause cause = Cause::kDeadline;
};

class Deployment {
 public:
  Deployment(DeploymentOptions options, QueryTable& queries);

  /// Before serving only. One controller for each of lanes().
  Replica& add_replica(std::vector<std::unique_ptr<Controller>> controllers);
  Replica& add_replica(std::unique_ptr<Controller> controller);

  // The way in.

  /// Counts `rows` in; false: closed, and nothing was counted.
  [[nodiscard]] bool enter(std::uint32_t rows) noexcept;
  /// The other end of enter(): these rows are answered and their memory is released.
  void leave(std::uint32_t rows) noexcept;
  /// Whether rows that must be complete by `answer_by_ns` can still make it, in the best placement.
  [[nodiscard]] bool admits(Nanos now_ns, std::uint32_t rows, Nanos answer_by_ns, Lane lane = 0,
                            Priority priority = 0) const noexcept;
  /// How much of the time that rows may wait, which must be complete by `answer_by_ns`, they will
  /// wait: 0, as on an idle replica, to 1, where they would just make it, and beyond. 0 also where
  /// that is not known yet. Rows of the shortest lane.
  [[nodiscard]] double pressure(Nanos now_ns, std::uint32_t rows, Nanos answer_by_ns,
                                Priority priority = 0) const noexcept;
  /// Where row `row` of `source` will wait.
  [[nodiscard]] Lane lane_of(const ColumnRows* source, std::uint32_t row) const noexcept;
  /// Where the longest of the first `rows` rows will wait.
  [[nodiscard]] Lane longest_lane_of(const ColumnRows* source, std::uint32_t rows) const noexcept;
  /// Copies at most `rows` rows of `source`, from `first` on, to where their batch will be read: as
  /// many as fit one block and belong to one lane. nullopt: the budget is used up.
  [[nodiscard]] std::optional<RowRun> store(const ColumnRows* source, std::uint32_t first,
                                            std::uint32_t rows, Lane& lane) noexcept;
  /// False: the queue is full.
  [[nodiscard]] bool push(const WaitingRows& entry) noexcept;
  /// Wakes a sleeping thread of a replica that nobody drives. `patient`: somebody may lead soon.
  void wake_a_driver(bool patient = false) noexcept;
  /// nullptr: it has none.
  [[nodiscard]] PredictionCache* cache() noexcept { return cache_.get(); }
  /// Whether a query that must be complete by `answer_by_ns` can rely on a flight, as far as is
  /// known. REQUIRES: its shard's lock.
  [[nodiscard]] bool may_join(const Flight& flight, Nanos now_ns, Nanos answer_by_ns, Lane lane,
                              Priority priority) const noexcept;

  // The way out.

  /// Binds the next batch of `replica`; nullptr: nothing to run now. Rows that can no longer make
  /// it go to `dropped`, for the caller to answer. REQUIRES: the caller drives the replica.
  /// run_limit_ns: a batch that may take longer is left where it is.
  /// retry_at_ns: when the controller wants to be asked again, if it waits on purpose, else kNever.
  [[nodiscard]] Batch* claim(Replica& replica, Nanos now_ns, Nanos run_limit_ns,
                             std::vector<DroppedRows>& dropped, Nanos& retry_at_ns);
  // Rows whose worker died (deployment_retries.cc). They are counted in already.

  /// Lets rows wait again that were taken for a batch; suspects apart, one row each.
  void requeue(WaitingRows entry);
  /// Whether some replica can run, or will.
  [[nodiscard]] bool has_live_replica() const noexcept;
  /// Whether some replica can run now.
  [[nodiscard]] bool has_available_replica(Nanos now_ns) const noexcept;
  /// Whether some replica has nothing to run.
  [[nodiscard]] bool has_idle_replica(Nanos now_ns) const noexcept;
  [[nodiscard]] Quarantine& quarantine() noexcept { return quarantine_; }

  /// Takes everything off the queue and the window. REQUIRES: closed.
  void take_all(std::vector<DroppedRows>& dropped, Cause cause);

  /// How many requests may wait from now on. Those that wait already stay.
  void set_max_queue(std::uint32_t requests) noexcept {
    max_queue_.store(std::max(requests, 1U), std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint32_t max_queue() const noexcept {
    return max_queue_.load(std::memory_order_relaxed);
  }
  /// The most rows of a batch from now on; more than most_batch_rows() cannot be.
  void set_max_batch(std::uint32_t rows) noexcept {
    max_batch_.store(std::clamp(rows, 1U, most_batch_rows_), std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint32_t max_batch() const noexcept {
    return max_batch_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint32_t most_batch_rows() const noexcept { return most_batch_rows_; }

  /// A request of this deployment was withdrawn: its rows are dead where they wait.
  void note_dead() noexcept { dead_.fetch_add(1, std::memory_order_relaxed); }

  // What its outputs and losses are like, and who is told when they drift.

  /// Before serving only.
  void set_alarm_bell(AlarmBell& bell) noexcept { alarm_bell_ = &bell; }
  /// Rows of a batch that has just ended, column by column.
  void note_outputs(const ColumnRows* outputs, std::uint32_t rows, Nanos now_ns) noexcept {
    if (statistics_.take_in(outputs, rows, now_ns)) tell_drift();
  }
  /// Feedback has found that an output was worth this loss, in [0, 1].
  void note_loss(double loss, Nanos now_ns) noexcept {
    if (statistics_.note_loss(loss, now_ns)) tell_drift();
  }
  [[nodiscard]] ModelStatistics& statistics() noexcept { return statistics_; }

  void close() noexcept { closed_.store(true, std::memory_order_seq_cst); }
  [[nodiscard]] bool is_closed() const noexcept { return closed_.load(std::memory_order_seq_cst); }
  /// Nobody will claim rows that are pushed from now on. A query's later stages may push late.
  void note_flushed() noexcept { flushed_.store(true, std::memory_order_seq_cst); }
  [[nodiscard]] bool is_flushed() const noexcept {
    return flushed_.load(std::memory_order_seq_cst);
  }
  /// Rows that entered and have not left.
  [[nodiscard]] std::int64_t outstanding() const noexcept {
    return outstanding_.load(std::memory_order_seq_cst);
  }
  /// Frees queue and blocks (a block with a lease lives on). REQUIRES: closed, outstanding() == 0.
  void free_memory();

  [[nodiscard]] std::uint32_t waiting_rows() const noexcept {
    return static_cast<std::uint32_t>(
        std::max<std::int64_t>(waiting_rows_.load(std::memory_order_seq_cst), 0));
  }
  /// Rows that lie in memory, waiting or in a batch, gathered ones twice, and leases on them.
  [[nodiscard]] std::uint64_t live_rows() const noexcept {
    return blocks_->held() + staging_->held();
  }
  [[nodiscard]] std::uint64_t arrived_rows() const noexcept {
    return arrived_rows_.load(std::memory_order_seq_cst);
  }
  [[nodiscard]] std::uint32_t block_rows() const noexcept { return block_rows_; }
  [[nodiscard]] const OutputLayout& output_layout() const noexcept { return output_layout_; }
  [[nodiscard]] std::size_t lanes() const noexcept { return windows_.size(); }
  [[nodiscard]] const DeploymentOptions& options() const noexcept { return options_; }
  [[nodiscard]] std::shared_ptr<RowBlocks> blocks_of(const Batch& batch) const noexcept {
    return batch.was_gathered() ? staging_ : blocks_;
  }
  [[nodiscard]] const RowBlocks& blocks() const noexcept { return *blocks_; }
  [[nodiscard]] RowBlocks& staging() noexcept { return *staging_; }
  [[nodiscard]] RowBlocks& blocks() noexcept { return *blocks_; }
  [[nodiscard]] const std::vector<std::unique_ptr<Replica>>& replicas() const noexcept {
    return replicas_;
  }

  std::atomic<std::uint64_t> rows_expired{0};    ///< ended in the queue: their deadline had passed
  std::atomic<std::uint64_t> rows_hopeless{0};   ///< ended in the queue: they could not make it
  std::atomic<std::uint64_t> rows_refused{0};    ///< refused on arrival
  std::atomic<std::uint64_t> rows_withdrawn{0};  ///< dead when their turn came

  void* owner = nullptr;  // opaque: the other side's object for this deployment

 private:
  void tell_drift() noexcept {
    if (alarm_bell_ != nullptr) alarm_bell_->ring();
  }
  /// Of any priority but 0 the rows are counted once more.
  void count_waiting(const WaitingRows& entry, std::int64_t rows) noexcept {
    if (entry.priority != 0) count_by_priority(entry.priority, rows);
    if (entry.deadline_ns == kNever) best_effort_rows_.fetch_add(rows, std::memory_order_relaxed);
  }
  void count_by_priority(Priority priority, std::int64_t rows) noexcept;
  /// Rows that wait and have this priority. More urgent ones go first, but its turn may be next.
  [[nodiscard]] std::uint32_t rows_of_rank(Priority priority) const noexcept;
  /// Rows that wait for the same turn, as far as that is known: those without a deadline wait
  /// behind all that have one, unless ranks order them otherwise.
  [[nodiscard]] std::uint32_t rows_ahead_of(Priority priority) const noexcept {
    if (has_priorities_.load(std::memory_order_relaxed)) return rows_of_rank(priority);
    const auto rows =
        std::int64_t{waiting_rows()} - best_effort_rows_.load(std::memory_order_relaxed);
    return static_cast<std::uint32_t>(std::max<std::int64_t>(rows, 0));
  }
  /// Rows that a replica has before those which must be complete by `answer_by_ns`.
  [[nodiscard]] std::uint32_t rows_before(Nanos answer_by_ns, Priority priority) const noexcept {
    // Rows that are due later than these wait behind them.
    const bool is_last = answer_by_ns >= last_deadline_ns_.load(std::memory_order_relaxed);
    return is_last ? rows_ahead_of(priority) / static_cast<std::uint32_t>(replicas_.size()) : 0;
  }
  void choose_ranks(const Replica& replica, Nanos now_ns, std::vector<DroppedRows>& dropped);
  [[nodiscard]] std::uint32_t rows_among_ranks(Window& window, Replica& replica, Nanos now_ns,
                                               std::uint32_t rows,
                                               std::vector<DroppedRows>& dropped);
  [[nodiscard]] bool push_after_draining(const WaitingRows& entry) noexcept;
  void drain_queue();
  void bury_the_dead(Nanos now_ns);
  void bury(const WaitingRows& entry, Nanos now_ns);
  void bury_or_pass(const WaitingRows& entry, Nanos now_ns);
  void release(const WaitingRows& entry) noexcept;
  void note_taken(const WaitingRows& entry) noexcept;
  [[nodiscard]] Window* most_urgent(const std::array<bool, kMaxLanes>& passed_over) noexcept;
  [[nodiscard]] bool drop_dead_head(Window& window, Nanos now_ns,
                                    std::vector<DroppedRows>& dropped);
  void drop_head(Window& window, Cause cause, std::vector<DroppedRows>& dropped);
  void drop_or_pass_head(Window& window, Cause cause, Nanos now_ns,
                         std::vector<DroppedRows>& dropped);
  void drop_or_pass(const WaitingRows& entry, Cause cause, Nanos now_ns,
                    std::vector<DroppedRows>& dropped);
  [[nodiscard]] std::optional<WaitingRows> pass_on(const WaitingRows& row, Nanos now_ns) noexcept;
  void put_back(const WaitingRows& entry);
  void put_back_passed();
  void note_end(const Batch& batch, Nanos ends_ns) noexcept;
  [[nodiscard]] bool push_suspect(const WaitingRows& entry) noexcept;
  [[nodiscard]] std::unique_ptr<PredictionCache> make_cache();
  void bind(Batch& batch, Window& window, std::uint32_t rows, Nanos now_ns);
  void bind_suspect(Batch& batch, Nanos now_ns, std::vector<DroppedRows>& dropped);
  void lay_out(Batch& batch);
  [[nodiscard]] bool gather(Batch& batch);
  [[nodiscard]] std::optional<RowRun> reserve_staging(const Batch& batch) noexcept;
  void give_back_all_but_run_of(Batch& batch, const WaitingRows& head);
  [[nodiscard]] bool is_dead(const WaitingRows& entry) noexcept;

  const DeploymentOptions options_;
  QueryTable& queries_;
  const OutputLayout output_layout_;
  ModelStatistics statistics_;
  AlarmBell* alarm_bell_ = nullptr;
  std::shared_ptr<RowBlocks> blocks_;
  std::shared_ptr<RowBlocks> staging_;  // for batches that are not one run
  const std::uint32_t block_rows_;
  const std::uint32_t most_batch_rows_;  // for which there is memory, should they be scattered
  std::atomic<std::uint32_t> max_batch_;
  std::atomic<std::uint32_t> max_queue_;
  std::unique_ptr<RequestQueue<WaitingRows>> queue_;
  std::vector<std::unique_ptr<Replica>> replicas_;
  std::unique_ptr<PredictionCache> cache_;

  std::mutex window_mutex_;           // guards what follows
  std::vector<Window> windows_;       // one for each lane; their number never changes
  std::deque<WaitingRows> suspects_;  // each a single row that runs alone
  bool was_suspects_turn_ = false;
  std::uint64_t dead_seen_ = 0;
  std::vector<WaitingRows> passed_on_;  // rows of dead queries that others wait for

  std::atomic<bool> closed_{false};
  std::atomic<bool> flushed_{false};
  std::atomic<std::uint64_t> dead_{0};
  std::atomic<Nanos> last_deadline_ns_{0};
  alignas(64) std::atomic<std::int64_t> outstanding_{0};
  // Below zero for a moment when a driver claims rows that push() has not counted yet.
  alignas(64) std::atomic<std::int64_t> waiting_rows_{0};
  std::atomic<std::uint32_t> waiting_requests_{0};
  std::atomic<std::uint64_t> arrived_rows_{0};
  std::atomic<bool> has_priorities_{false};  // a row of another priority than 0 ever came
  // Rows of another priority than 0 once more: on a line that the usual case never touches.
  alignas(64) std::array<std::atomic<std::int64_t>, Window::kRanks> waiting_by_priority_{};
  std::atomic<std::int64_t> best_effort_rows_{0};
  Quarantine quarantine_;
};

}  // namespace clipper
