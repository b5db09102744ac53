// The engine: the way of a query from submit() to collect(), a line a station.
//
//   submit    select models -> admit -> reserve rows, write them -> queue -> wake a driver
//   claim     window -> controller -> batch                  (drivers: leaders, replica threads)
//   complete  copy outputs -> end queries -> wake their owners
//   collect   combine -> confidence -> metrics               (the owner's own thread)
//
// The first half is in engine.cc, with its drivers and complete(); collect() and waiting in
// engine_collect.cc; the reaper and the end in engine_reap.cc; rows of deployments that have a
// cache in engine_cache.cc; what is different for queries that go through stages in
// engine_stages.cc; what a worker's death leads to in engine_retry.cc; shadows in
// engine_shadow.cc.
//
// C++ never calls out of here: drivers pull batches with claim() and hand results over with
// complete().
//
// Thread safety: all of it, except where a driver or an owner is required.
// Invariant: every accepted query ends exactly once (Query::finish), whatever models do.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/clock.h"
#include "serving/alarm_bell.h"
#include "serving/application.h"
#include "serving/deployment.h"
#include "serving/feedback.h"
#include "serving/model.h"
#include "serving/query_table.h"
#include "serving/reserve.h"

namespace clipper {

/// Stands for the priority that the application has.
inline constexpr Priority kApplicationsPriority = std::numeric_limits<Priority>::min();

/// Queries with less time than this cannot wait for somebody who may lead.
inline constexpr Nanos kPatientBudget = 10 * kMillisecond;

/// How a query is asked.
struct Asking {
  Nanos budget_ns = kNever;   ///< from its arrival to its deadline; kNever: none
  Nanos arrived_ns = 0;       ///< 0: now; a load generator says when it should have come
  std::uint64_t context = 0;  ///< hash of the caller's context
  bool has_context = false;
  /// Larger is more urgent; clamped to [kLeastPriority, kMostPriority].
  Priority priority = kApplicationsPriority;
  bool will_lead = false;  ///< the caller will call lead(): no driver is woken for it now
  bool may_lead = false;   ///< the caller will perhaps call lead(): a driver need not hurry
  bool everyone = false;   ///< every model is asked, whatever the policy says
  /// Who is asked, each once, instead of whom the policy says; empty: the policy chooses. Read by
  /// submit() only.
  std::span<const Choice> chosen{};
  /// kNone; else the choice went wrong: nobody is asked, and the query ends with this at once.
  Cause unasked = Cause::kNone;
  bool bypass_cache = false;  ///< neither read nor filled for this query
  bool attended = false;      ///< a thread waits and sees to the deadline; else the reaper does
  /// Where it goes when it is done. The box is read by the thread that submits, so that nobody
  /// collects the query while it is still being submitted.
  Mailbox* mailbox = nullptr;
  void* owner = nullptr;
};

enum class Refusal : std::uint8_t { kNone, kClosed, kForked, kTooManyRows, kOutOfMemory };

/// What became of a query. Pointers are valid until the query is released.
struct Outcome {
  std::byte* outputs = nullptr;          ///< rows of the application's output, as `layout` says
  const OutputLayout* layout = nullptr;  ///< nullptr: no model was there to be asked
  OutputRows* holder = nullptr;          ///< whose memory that is: large ones may be taken
  const Cause* causes = nullptr;         ///< one per row; nullptr: `cause` holds for all
  const float* confidences = nullptr;    ///< one per row; nullptr: `confidence` holds for all
  Cause cause = Cause::kNone;            ///< of the first row
  float confidence = 0.0F;
  Nanos latency_ns = 0;
  Nanos queued_ns = 0;         ///< from arrival to the start of its batch; 0: never ran
  std::uint32_t error_id = 0;  ///< of the first model error
  /// By which feedback finds what was answered; of JoinRecords.
  std::uint64_t ticket = JoinRecords::kNoTicket;
  bool all_answered = false;  ///< no row has a cause
};

enum class WaitResult : std::uint8_t { kDone, kTimedOut, kInterrupted };

class Engine {
 public:
  Engine(const Clock& clock, std::uint64_t seed, Nanos first_reserve_ns = 500 * kMicrosecond,
         const JoinRecords::Options& records = {});
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Set-up. What is added lives as long as the engine.
  Model& add_model(std::string name);
  Deployment& add_deployment(DeploymentOptions options);
  Application& add_application(std::string name, std::vector<Model*> models,
                               std::unique_ptr<Policy> policy, Nanos slo_ns, float min_confidence,
                               Priority priority = 0,
                               std::size_t context_bytes = ContextOptions::kDefaultBytes,
                               std::unique_ptr<const Plan> plan = nullptr);

  /// From now on `model` is asked whatever the application is. Before its first query.
  ShadowModel& add_shadow(Application& application, Model& model, const RowSpec& output);

  /// Accepts `count` rows, given column by column; nullptr: see `refusal`, nothing was accepted.
  [[nodiscard]] Query* submit(Application& application, const ColumnRows* columns,
                              std::uint32_t count, const Asking& asking, Refusal& refusal) noexcept;
  /// The same for rows of one tensor of fixed shape, one after the other.
  [[nodiscard]] Query* submit(Application& application, const std::byte* rows, std::uint32_t count,
                              const Asking& asking, Refusal& refusal) noexcept {
    const ColumnRows only{rows};
    return submit(application, &only, count, asking, refusal);
  }

  /// For a thread that waits for `query`: the batch it should run itself, on a replica that it then
  /// drives; nullptr: wait(), for somebody else will run it. At most one batch a call.
  [[nodiscard]] Batch* lead(Query& query, Nanos now_ns, Nanos run_limit_ns);
  /// For who has run the batch of lead() or of this: a batch of the stage that is due by now;
  /// nullptr: none, or the query does not go through stages.
  [[nodiscard]] Batch* lead_next_stage(Query& query, Nanos now_ns, Nanos run_limit_ns);
  /// The same for an event loop at the end of its turn.
  [[nodiscard]] Batch* lead_at_turn_end(Deployment& deployment, Nanos run_limit_ns);
  /// Whether the calling thread is running a batch of `deployment`: asking it again could never
  /// end.
  [[nodiscard]] static bool is_driving(const Deployment& deployment) noexcept;
  /// For a replica's thread. retry_at_ns as in Deployment::claim.
  [[nodiscard]] Batch* drive(Replica& replica, Nanos& retry_at_ns);

  /// drive() on behalf of a thread that exists in simulated time only; ends with release_driver().
  [[nodiscard]] Batch* drive_for_another(Replica& replica, Nanos& retry_at_ns);
  static void release_driver(Replica& replica) noexcept;

  /// Hands over outputs of all rows, column by column. Returns when the batch ended.
  Nanos complete(Batch& batch, const ColumnRows* outputs);
  /// The same for one tensor of fixed shape, one row after the other.
  Nanos complete(Batch& batch, const std::byte* outputs) {
    const ColumnRows only{outputs};
    return complete(batch, &only);
  }
  /// The batch has no outputs: every row ends with `cause`. Returns when the batch ended.
  Nanos fail(Batch& batch, Cause cause, std::uint32_t error_id);
  /// The worker that had the batch died: its rows wait again, on this replica or another, unless
  /// they are due before `runnable_at_ns`, or are known to kill workers. `is_blamed`: the worker
  /// was running it, so each of its rows is suspected and runs alone. Returns what is refused from
  /// now on.
  std::vector<Hash128> retry(Batch& batch, bool is_blamed, Nanos runnable_at_ns,
                             std::uint32_t error_id);
  /// Lets go of the replica that claim gave, and sees to it that waiting rows find another driver.
  void stop_driving(Replica& replica) noexcept;

  /// Ends every row that waits at a closed deployment with `cause`.
  void flush(Deployment& deployment, Cause cause);

  /// Drives a worker if its seat is free; spins when the answer is near, else parks, until the
  /// query is done or `until_ns`.
  [[nodiscard]] WaitResult wait(Query& query, Nanos until_ns) noexcept;
  /// Ends the query if it is open: true. Owner only; the query must still be collected.
  bool withdraw(Query& query, Cause cause) noexcept;
  /// Combines what arrived; ends the query first if it is open. Owner only, once.
  /// held_ns: when the owner holds the answer; 0: when the query was done.
  void collect(Query& query, Nanos held_ns, Outcome& outcome);
  /// The same for an owner that combines by itself, between the two: open_combined() makes room
  /// for an answer, a cause and a confidence of each row in `query`, and close_combined() does the
  /// rest of collect() with what the owner wrote there. REQUIRES: collect_answers(query); no plan.
  /// Returns how the rows lie; nullptr: nobody was there to be asked. Throws std::bad_alloc.
  const OutputLayout* open_combined(Query& query);
  void close_combined(Query& query, Nanos held_ns, Outcome& outcome) noexcept;
  /// The first part of it, for who looks at each model's own answers: from then on nothing is
  /// written, and every row of every ask has its cause. Nothing is counted.
  void collect_answers(Query& query) noexcept;
  /// Owner only, last.
  void release(Query& query) noexcept;

  /// Ends unattended queries whose time is up. Returns when to look again.
  Nanos reap() noexcept;
  /// When reap() is due: no open unattended query is due earlier.
  [[nodiscard]] Nanos next_reap_ns() const noexcept {
    return next_reap_ns_.load(std::memory_order_seq_cst);
  }
  /// The reaper's life, for a thread that needs no interpreter meanwhile: reaps in time, and
  /// returns when letters have come for it, an alarm of drift went up, or the engine is closed.
  void run_reaper() noexcept {
    while (!is_closed() && reaper_box_.empty() && !alarm_bell_.is_rung()) {
      wait_for_reaping(reap());
    }
  }
  [[nodiscard]] AlarmBell& alarm_bell() noexcept { return alarm_bell_; }
  /// Parks the reaper until `until_ns`, an earlier deadline, a letter for it, or wake_reaper();
  /// meanwhile it collects shadows.
  void wait_for_reaping(Nanos until_ns) noexcept;
  /// Compares what shadows said with what was given. The reaper's.
  void collect_shadows() noexcept;
  void wake_reaper() noexcept { reaper_box_.signal(); }
  /// For queries that got callbacks after they were submitted: the reaper's thread runs them.
  [[nodiscard]] Mailbox& reaper_box() noexcept { return reaper_box_; }

  /// Ends every open query. Afterwards submit() refuses.
  void close() noexcept;
  [[nodiscard]] bool is_closed() const noexcept { return closed_.load(std::memory_order_seq_cst); }
  /// Whether this process is a fork of the one that made the engine.
  [[nodiscard]] bool is_forked() const noexcept;

  /// Queries that have not ended. Looks at every slot that was ever used.
  [[nodiscard]] std::uint32_t open_queries() noexcept;

  /// From now on chance goes as with an engine that was just made with this seed.
  void seed_random(std::uint64_t seed) noexcept {
    random_state_.store(seed, std::memory_order_relaxed);
  }
  [[nodiscard]] const Clock& clock() const noexcept { return clock_; }
  [[nodiscard]] QueryTable& queries() noexcept { return queries_; }
  [[nodiscard]] Reserve& reserve() noexcept { return reserve_; }
  [[nodiscard]] Feedback& feedback() noexcept { return feedback_; }
  /// Rows whose answers came after their query had ended.
  std::atomic<std::uint64_t> answers_lost{0};

 private:
  void prepare(Query& query, Application& application, std::uint32_t rows, const Asking& asking);
  void prepare_asks(Query& query, const Asking& asking);
  [[nodiscard]] static std::uint16_t most_asks_under_load(const Query& query) noexcept;
  void watch_deadline(Query& query) noexcept;
  void enqueue(Query& query, std::uint16_t index, const ColumnRows* columns, Nanos now_ns,
               bool bypass_cache) noexcept;
  void refuse(Query& query, std::uint16_t index, Cause cause, std::uint32_t offset) noexcept;
  /// How many rows of `columns` from row `first` on may wait together; 0: that one is refused, and
  /// was answered. Marks a suspect.
  [[nodiscard]] std::uint32_t screen(WaitingRows& entry, Deployment& deployment,
                                     const ColumnRows* columns, std::uint32_t first,
                                     std::uint32_t rows) noexcept;

  // The same past a cache: see engine_cache.cc, and walk_cache.cc for stages.
  friend class Walk;
  struct CachedAsk;
  void enqueue_cached(Query& query, std::uint16_t index, const ColumnRows* columns,
                      Nanos now_ns) noexcept;
  void look_up_rows(CachedAsk& ask) noexcept;
  void push_missed(CachedAsk& ask) noexcept;
  [[nodiscard]] std::uint32_t push_run(CachedAsk& ask, std::uint32_t first,
                                       std::uint32_t rows) noexcept;
  void refuse_missed(CachedAsk& ask, std::uint32_t row) noexcept;
  [[nodiscard]] bool push_for_waiter(CachedAsk& ask, std::uint32_t row) noexcept;
  void refuse_waiter(const WaitingRows& entry, Nanos now_ns) noexcept;
  void answer_refused_waiters() noexcept;
  void land(const WaitingRows& entry, Cause cause, const ColumnRows* outputs, std::uint32_t first,
            Nanos started_ns, std::uint32_t error_id, Nanos now_ns) noexcept;
  [[nodiscard]] Batch* try_lead(Deployment& deployment, Nanos now_ns, Nanos run_limit_ns);
  /// `outputs`: those of the whole batch, of which the entry's begin at row `first`; nullptr: none.
  void answer(const WaitingRows& entry, Cause cause, const ColumnRows* outputs, std::uint32_t first,
              Nanos started_ns, std::uint32_t error_id, Nanos now_ns) noexcept;
  void release_rows(Batch& batch);
  void answer_dropped(Deployment& deployment, std::vector<DroppedRows>& dropped, Nanos now_ns);
  [[nodiscard]] Batch* claim(Replica& replica, Nanos now_ns, Nanos run_limit_ns,
                             Nanos& retry_at_ns);
  [[nodiscard]] bool carry(Query& query, Nanos until_ns) noexcept;
  void spin(const Query& query) const noexcept;
  void take_only_answer(Query& query, Outcome& outcome);
  void combine(Query& query, Outcome& outcome);
  static void note_times(Query& query, Nanos held_ns, Outcome& outcome) noexcept;
  static void give_combined(Query& query, Outcome& outcome) noexcept;
  void conclude(Query& query, Nanos held_ns, Outcome& outcome) noexcept;

  // Queries that go through stages.
  void prepare_stages(Query& query, bool bypass_cache);
  [[nodiscard]] static bool keeps_output(Query& query, std::uint16_t stage,
                                         Deployment& deployment) noexcept;
  void start_plan(Query& query, const ColumnRows* columns, const Asking& asking, Nanos now_ns);
  void answer_stage(Query& query, Ask& ask, const WaitingRows& entry, Cause cause,
                    const ColumnRows* outputs, std::uint32_t first, Nanos now_ns) noexcept;
  void wake_started_stages() noexcept;
  struct StageAnswer {
    Cause cause = Cause::kNone;
    std::uint16_t stage = Plan::kNowhere;  // none
    float confidence = 0.0F;
  };
  static void settle_stages(Query& query) noexcept;
  static void count_stage(Query& query, std::uint16_t stage) noexcept;
  [[nodiscard]] static StageAnswer answer_of_stages(Query& query, std::uint32_t row) noexcept;
  [[nodiscard]] static Nanos queued_before_stages(Query& query) noexcept;
  static void combine_stages(Query& query, Outcome& outcome);
  static void give_stage(Query& query, std::uint16_t stage, Outcome& outcome) noexcept;
  static void gather_answers(Query& query, const std::vector<std::uint16_t>& stages,
                             Outcome& outcome);

  Cause combine_row(Query& query, std::uint32_t row, const OutputLayout& layout, float& confidence);
  void watch(Query& query) noexcept;
  void count(Query& query, Outcome& outcome, Nanos held_ns) noexcept;
  [[nodiscard]] std::uint64_t random_bits() noexcept;

  void start_shadows(Query& query, const ColumnRows* columns) noexcept;
  void note_given(Query& query, const Outcome* outcome) noexcept;
  void drop_shadows() noexcept;

  const Clock& clock_;
  const int fork_epoch_;
  QueryTable queries_;
  Reserve reserve_;
  Feedback feedback_;
  std::atomic<bool> closed_{false};
  std::atomic<std::uint64_t> random_state_;
  SipKey cache_secret_;

  alignas(64) std::atomic<Nanos> next_reap_ns_{kNever};
  std::atomic<bool> reaper_asleep_{false};
  Mailbox reaper_box_;
  Mailbox shadow_box_;  // the reaper's too
  AlarmBell alarm_bell_{reaper_box_};

  std::mutex set_up_mutex_;  // guards what follows
  std::vector<std::unique_ptr<Model>> models_;
  std::vector<std::unique_ptr<Deployment>> deployments_;
  std::vector<std::unique_ptr<Application>> applications_;
};

}  // namespace clipper
