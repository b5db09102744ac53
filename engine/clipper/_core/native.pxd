# What the boundary sees of csrc/. Declarations only, in the order of the layers.
from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.memory cimport shared_ptr, unique_ptr
from libcpp.optional cimport optional
from libcpp.string cimport string
from libcpp.vector cimport vector

ctypedef int64_t Nanos
ctypedef uint8_t Lane
ctypedef int8_t Priority

cdef enum:
    kMaxColumns = 32

cdef extern from "<cstddef>" nogil:
    # A class to Cython, so that it takes no pointer to one for a string.
    cdef cppclass Byte "std::byte":
        pass


cdef extern from "base/clock.h" namespace "clipper" nogil:
    const Nanos kNever
    cdef cppclass Clock:
        Nanos now_ns() noexcept
    cdef cppclass MonotonicClock(Clock):
        MonotonicClock()


cdef extern from "base/errors.h" namespace "clipper" nogil:
    enum class Cause(uint8_t):
        kNone
        kDeadline
        kOverload
        kCrash
        kModelError
        kNoReplica
        kLowConfidence
        kCancelled


cdef extern from "base/hash.h" namespace "clipper" nogil:
    uint64_t hash_bytes(const void* data, size_t size, uint64_t seed) noexcept


cdef extern from "base/tensor.h" namespace "clipper" nogil:
    enum class DTypeCode(uint8_t):
        kInt
        kUInt
        kFloat
        kBfloat
        kComplex
        kBool
    cdef cppclass DType:
        DTypeCode code
        uint8_t bits
    cdef cppclass TensorSpec:
        DType dtype
        vector[int64_t] shape
        cbool ragged
    cdef cppclass RowSpec:
        RowSpec()
        vector[TensorSpec] columns
    cdef cppclass ColumnRows:
        ColumnRows()
        const Byte* data
        const int64_t* offsets
        int64_t single[2]


cdef extern from "base/output_layout.h" namespace "clipper" nogil:
    cdef cppclass RaggedCell:
        Byte* data
        int64_t items
    cdef cppclass OutputColumn "clipper::OutputLayout::Column":
        size_t item_bytes
        size_t offset
        cbool ragged
    cdef cppclass OutputLayout:
        OutputLayout()
        OutputLayout(const RowSpec& spec) except +
        void clear(Byte* rows, uint32_t count) noexcept
        const vector[OutputColumn]& columns() noexcept
        size_t row_bytes() noexcept
        cbool is_fixed() noexcept

        @staticmethod
        RaggedCell& cell(Byte* row, const OutputColumn& column) noexcept
        cbool copy(const Byte* source, Byte* to) noexcept
        cbool write(Byte* rows, const ColumnRows* source, uint32_t first,
                    uint32_t count) noexcept


cdef extern from "base/siphash.h" namespace "clipper" nogil:
    cdef cppclass Hash128:
        uint64_t low
        uint64_t high


cdef extern from "base/histogram.h" namespace "clipper" nogil:
    cdef cppclass HistogramSnapshot:
        @staticmethod
        Nanos upper_bound(size_t bucket) noexcept
        uint64_t count() noexcept
        uint64_t count_of(size_t bucket) noexcept
        Nanos quantile_ns(double p) noexcept
        double mean_ns() noexcept
        Nanos max_ns() noexcept
    const size_t kHistogramBuckets "clipper::HistogramSnapshot::kBuckets"
    cdef cppclass Histogram:
        HistogramSnapshot snapshot() noexcept


cdef extern from "queue/row_blocks.h" namespace "clipper" nogil:
    cdef cppclass Block:
        pass
    cdef cppclass RowBlocks:

        @staticmethod
        void release(Block& block, uint32_t count) noexcept

        @staticmethod
        void lease(Block& block) noexcept
        size_t bytes_in_use() noexcept


cdef extern from "queue/mailbox.h" namespace "clipper" nogil:
    cdef cppclass Letter:
        Letter* next_letter
    cdef cppclass Mailbox:
        Mailbox() except +
        Letter* take_all() noexcept
        void set_awake(cbool awake) noexcept
        int fd() noexcept
        void clear_signal() noexcept


cdef extern from "queue/waiting_rows.h" namespace "clipper" nogil:
    const Priority kLeastPriority
    const Priority kMostPriority


cdef extern from "batching/controller.h" namespace "clipper" nogil:
    cdef cppclass Run:
        uint32_t rows
        Nanos start_ns
        Nanos end_ns
        cbool failed
    cdef cppclass LatencyModel:
        pass
    cdef cppclass Controller:
        const shared_ptr[LatencyModel]& shared_latency() noexcept
        void observe(const Run& run) noexcept
        Nanos run_bound_ns(uint32_t rows) noexcept
        uint32_t batch_limit(Nanos slo_ns) noexcept
        cbool is_warm() noexcept


cdef extern from "batching/fixed.h" namespace "clipper" nogil:
    cdef cppclass FixedController(Controller):
        FixedController(uint32_t rows, shared_ptr[LatencyModel] known) except +


cdef extern from "batching/aimd.h" namespace "clipper" nogil:
    cdef cppclass AimdOptions:
        pass
    cdef cppclass AimdController(Controller):
        AimdController(AimdOptions options, shared_ptr[LatencyModel] known) except +


cdef extern from "batching/quantile.h" namespace "clipper" nogil:
    cdef cppclass QuantileOptions:
        pass
    cdef cppclass QuantileController(Controller):
        QuantileController(QuantileOptions options, shared_ptr[LatencyModel] known) except +


cdef extern from "batching/deadline.h" namespace "clipper" nogil:
    cdef cppclass DeadlineOptions:
        uint32_t max_batch
        Nanos delay_ns
    cdef cppclass DeadlineController(Controller):
        DeadlineController(DeadlineOptions options,
                           shared_ptr[LatencyModel] known) except +


cdef extern from "selection/loss.h" namespace "clipper" nogil:
    enum class LossKind(uint8_t):
        kZeroOne
        kAbsolute
        kSquared
        kLog
    cdef cppclass Labels:
        const ColumnRows* rows
        const int64_t* classes
    cdef cppclass Loss:
        Loss()
        Loss(LossKind kind, double scale, const RowSpec& output) except +ValueError
        int64_t classes() noexcept


cdef extern from "selection/policy.h" namespace "clipper" nogil:
    cdef cppclass Policy:
        pass
    cdef cppclass Choice:
        Choice()
        uint16_t model
        float propensity
    cdef cppclass Choices "std::span<const clipper::Choice>":
        Choices()
        Choices(const Choice* choices, size_t count)
    cdef cppclass Observation:
        uint16_t model
        float loss
        float propensity
    cdef cppclass Standing:
        double share
        double weight
        double loss
        double count


cdef extern from "selection/by_caller.h" namespace "clipper" nogil:
    cdef cppclass ByCaller(Policy):
        ByCaller() except +


cdef extern from "selection/context_table.h" namespace "clipper" nogil:
    const size_t kDefaultContextBytes "clipper::ContextOptions::kDefaultBytes"
    const size_t kLeastContextBytes "clipper::ContextOptions::kLeastBytes"
    cdef cppclass ContextCounts:
        size_t in_memory
        size_t bytes
        size_t stored
        size_t waiting
        size_t noted
        uint64_t begun
        uint64_t loaded
        uint64_t spilled
        uint64_t evicted_unsaved
        uint64_t served_by_own
        uint64_t refused
        uint64_t forgotten
    cdef cppclass ContextTable:
        size_t words() noexcept
        ContextCounts counts() noexcept


cdef extern from "selection/weighted_split.h" namespace "clipper" nogil:
    cdef cppclass WeightedSplit(Policy):
        WeightedSplit(const vector[double]& weights) except +


cdef extern from "selection/majority_vote.h" namespace "clipper" nogil:
    cdef cppclass MajorityVote(Policy):
        MajorityVote() except +


cdef extern from "statistics/model_statistics.h" namespace "clipper" nogil:
    enum class OutputKind(uint8_t):
        kNothing
        kLabels
        kValues
        kScores
    const size_t kStatisticsLabels "clipper::StatisticsWindow::kLabels"
    const size_t kNotFiniteCell "clipper::ValueBins::kNotFinite"
    cdef cppclass StatisticsOptions:
        Nanos window_ns
    cdef cppclass StatisticsWindow:
        Nanos begun_ns
        Nanos ended_ns
        uint64_t rows
        uint32_t labels[65]
        uint32_t values[32]
        uint64_t finite
        double mean
        double squares
        double least
        double most
        uint64_t losses
        double loss_sum
    cdef cppclass PopulationShift:
        double index
        double bound
    cdef cppclass DriftAlarm:
        cbool is_up
        Nanos since_ns
        uint64_t raised
        PopulationShift last
    cdef cppclass StatisticsSnapshot:
        OutputKind kind
        size_t column
        cbool is_unsigned
        vector[int64_t] labels
        vector[double] edges
        vector[StatisticsWindow] windows
        uint32_t reference_windows
        cbool has_reference
        StatisticsWindow reference
        uint64_t losses
        double mean_loss
        DriftAlarm alarms[3]
    cdef cppclass ModelStatistics:
        void reset() noexcept
        StatisticsSnapshot snapshot() except +
        unsigned int take_raised() noexcept


cdef extern from "selection/condition.h" namespace "clipper" nogil:
    ctypedef long double LongDouble "long double"  # as a template argument: one word to Cython
    enum class Test "clipper::Condition::Test"(uint8_t):
        kLess
        kAtMost
        kMore
        kAtLeast
        kNotAtLeast
        kAmong
        kNotAmong
    cdef cppclass Reading:
        Reading()
        uint16_t column
        int64_t element
        TensorSpec tensor
    cdef cppclass Condition:
        Condition()
        uint16_t stage
        Reading reading
        Test test
        long double threshold
        vector[LongDouble] numbers
        vector[string] texts


cdef extern from "selection/plan.h" namespace "clipper" nogil:
    cdef cppclass Source:
        Source()
        uint16_t stage
        uint16_t column
    const uint16_t kQueryInput "clipper::Source::kQuery"
    cdef cppclass StageSpec:
        StageSpec()
        uint16_t model
        RowSpec input
        RowSpec output
        vector[vector[Source]] inputs
        vector[Condition] conditions
    cdef cppclass PlanSpec:
        PlanSpec()
        RowSpec input
        vector[StageSpec] stages
        vector[uint16_t] answers
        optional[Reading] confidence
        cbool answers_stand
    cdef cppclass Plan:
        Plan(PlanSpec spec) except +


cdef extern from "selection/ballot.h" namespace "clipper" nogil:
    cdef cppclass Ballot:
        Ballot()
        Ballot(const RowSpec& spec, cbool takes_mean) except +


cdef extern from "selection/weighted_ensemble.h" namespace "clipper" nogil:
    cdef cppclass WeightedEnsemble(Policy):
        WeightedEnsemble(const vector[double]& weights, Ballot ballot) except +


cdef extern from "selection/epsilon_greedy.h" namespace "clipper" nogil:
    cdef cppclass EpsilonGreedy(Policy):
        EpsilonGreedy(double epsilon, double memory, float failure_loss) except +


cdef extern from "selection/ucb1.h" namespace "clipper" nogil:
    cdef cppclass Ucb1(Policy):
        Ucb1(double memory, float failure_loss) except +


cdef extern from "selection/thompson.h" namespace "clipper" nogil:
    cdef cppclass Thompson(Policy):
        Thompson(double memory, float failure_loss) except +


cdef extern from "selection/exp3.h" namespace "clipper" nogil:
    cdef cppclass Exp3(Policy):
        Exp3(double eta, double gamma, double floor, float failure_loss) except +


cdef extern from "selection/exp4.h" namespace "clipper" nogil:
    cdef cppclass Exp4(Policy):
        Exp4(double eta, double floor, Ballot ballot, float failure_loss) except +


cdef extern from "selection/canary.h" namespace "clipper" nogil:
    cdef cppclass CanaryOptions:
        uint16_t model
        double share
        double min_count
        double z
    cdef cppclass Canary(Policy):
        Canary(const CanaryOptions& options) except +


cdef extern from "serving/query.h" namespace "clipper" nogil:
    const Cause kSkipped
    cdef cppclass Causes "std::unique_ptr<clipper::Cause[]>":
        Cause* get() noexcept
    cdef cppclass Confidences "std::unique_ptr<float[]>":
        float* get() noexcept
    cdef cppclass OutputRows:
        Byte* data() noexcept
        cbool is_inline() noexcept
        Byte* take() noexcept
    cdef cppclass Ask:
        Cause cause(uint32_t row) noexcept
        Deployment* deployment() noexcept
        uint16_t model_index() noexcept
        OutputRows& outputs() noexcept
        uint32_t error_id() noexcept
    cdef cppclass Query(Letter):
        cbool is_done() noexcept
        cbool attach(Mailbox& box) noexcept
        Ask& ask(size_t index) noexcept
        uint32_t slot
        uint32_t generation
        uint32_t rows
        uint16_t asks
        Nanos arrived_ns
        Nanos deadline_ns
        Nanos answer_by_ns
        void* owner
        Ask first_ask
        OutputRows combined
        Causes combined_causes
        Confidences confidences


cdef extern from "serving/batch.h" namespace "clipper" nogil:
    cdef cppclass Batch:
        Replica* replica
        uint32_t rows
        Lane lane
        const Byte* column(size_t index) noexcept
        const int64_t* offsets(size_t index) noexcept
        Block& block() noexcept


cdef extern from "serving/replica.h" namespace "clipper" nogil:
    cdef cppclass AtomicCount "std::atomic<std::uint64_t>":
        uint64_t load() noexcept
    cdef cppclass AtomicNanos "std::atomic<clipper::Nanos>":
        Nanos load() noexcept
    cdef cppclass Replica:
        cbool wait_for_work(const Clock& clock, Nanos until_ns, const uint64_t* seen) noexcept
        cbool wake_thread(cbool patient) noexcept
        void note_needless_wake() noexcept
        void stop() noexcept
        void set_available_at(Nanos at_ns) noexcept
        Nanos available_at_ns() noexcept
        cbool is_stopped() noexcept
        cbool is_driven() noexcept
        Deployment& deployment() noexcept
        Controller& controller(Lane lane) noexcept
        void set_controller(Lane lane, unique_ptr[Controller] controller) except +
        cbool is_warm() noexcept
        AtomicCount batches_run
        AtomicCount rows_run
        AtomicCount batches_gathered
        AtomicCount batches_failed
        AtomicNanos busy_ns
        Histogram batch_rows
        Histogram run_ns
        void* owner


cdef extern from "cache/prediction_cache.h" namespace "clipper" nogil:
    cdef cppclass CacheOptions:
        size_t bytes
        Nanos ttl_ns
    cdef cppclass CacheStatistics:
        uint64_t hits
        uint64_t misses
        uint64_t joined
        uint64_t evictions
        uint64_t entries
        uint64_t bytes
    cdef cppclass PredictionCache:
        void clear() noexcept
        CacheStatistics statistics() noexcept
        const CacheOptions& options() noexcept


cdef extern from "serving/quarantine.h" namespace "clipper" nogil:
    cdef cppclass Quarantine:
        vector[Hash128] refused() except +


cdef extern from "serving/deployment.h" namespace "clipper" nogil:
    cdef cppclass DeploymentOptions:
        RowSpec input
        RowSpec output
        vector[int64_t] lane_edges
        uint32_t max_queue
        size_t row_budget_bytes
        uint32_t max_batch
        uint32_t most_batch
        uint32_t most_in_flight
        cbool caller_runs
        cbool callers_carry
        CacheOptions cache
        StatisticsOptions statistics
    cdef cppclass Deployment:
        ModelStatistics& statistics() noexcept
        Replica& add_replica(vector[unique_ptr[Controller]] controllers) except +
        size_t lanes() noexcept
        const OutputLayout& output_layout() noexcept
        shared_ptr[RowBlocks] blocks_of(const Batch& batch) noexcept
        RowBlocks& blocks() noexcept
        void close() noexcept
        int64_t outstanding() noexcept
        void free_memory() except +
        void wake_a_driver() noexcept
        PredictionCache* cache() noexcept
        void set_max_queue(uint32_t requests) noexcept
        uint32_t max_queue() noexcept
        void set_max_batch(uint32_t rows) noexcept
        uint32_t max_batch() noexcept
        uint32_t most_batch_rows() noexcept
        uint32_t waiting_rows() noexcept
        uint64_t arrived_rows() noexcept
        cbool has_live_replica() noexcept
        cbool has_available_replica(Nanos now_ns) noexcept
        Quarantine& quarantine() noexcept
        const DeploymentOptions& options() noexcept
        AtomicCount rows_expired
        AtomicCount rows_hopeless
        AtomicCount rows_refused
        AtomicCount rows_withdrawn
        void* owner


cdef extern from "serving/model.h" namespace "clipper" nogil:
    cdef cppclass Model:
        Deployment* current() noexcept
        Deployment* set_current(Deployment* deployment) noexcept


cdef extern from "serving/feedback_tally.h" namespace "clipper" nogil:
    enum class FeedbackStatus(uint8_t):
        kApplied
        kDuplicate
        kExpired
        kUnknown
        kForeign
        kUnattributed
        kRefused
        kUnsaved
    cdef cppclass AtomicDouble "std::atomic<double>":
        double load() noexcept
    cdef cppclass ModelTally:
        AtomicCount judged
        AtomicDouble loss
    cdef cppclass FeedbackTally:
        AtomicCount rows_by_status[8]
        ModelTally models[32]
        void recount(FeedbackStatus before, FeedbackStatus after, uint64_t rows) noexcept


cdef extern from "serving/shadow.h" namespace "clipper" nogil:
    cdef cppclass ShadowModel:
        Application& asks
        AtomicCount compared
        AtomicCount agreed
        AtomicCount not_asked


cdef extern from "serving/application.h" namespace "clipper" nogil:
    cdef cppclass StageCounts:
        AtomicCount ran
        AtomicCount skipped
        AtomicCount failed
    cdef cppclass Application:
        unique_ptr[ContextTable] contexts
        StageCounts& counts_of(size_t stage) noexcept
        Nanos slo_ns
        Priority priority
        cbool keeps_records
        uint16_t fewest_asks
        AtomicCount asks_spared
        Loss loss
        FeedbackTally feedback
        Nanos inline_limit_ns() noexcept
        AtomicCount rows_by_cause[8]
        AtomicCount rows_in_time
        Histogram latency_ns


cdef extern from "serving/reserve.h" namespace "clipper" nogil:
    cdef cppclass Reserve:
        void observe(Nanos took_ns) noexcept
        Nanos of(Nanos objective_ns) noexcept


cdef extern from "serving/join_records.h" namespace "clipper" nogil:
    const uint64_t kNoTicket "clipper::JoinRecords::kNoTicket"
    const uint64_t kNotKept "clipper::JoinRecords::kNotKept"
    cdef cppclass RecordOptions "clipper::JoinRecords::Options":
        size_t bytes
        Nanos window_ns
    cdef cppclass RecordStatistics "clipper::JoinRecords::Statistics":
        uint64_t records
        size_t bytes
    cdef cppclass JoinRecords:
        RecordStatistics statistics() noexcept
        size_t capacity() noexcept
        Nanos window_ns() noexcept


cdef extern from "serving/feedback.h" namespace "clipper" nogil:
    cdef cppclass Said:
        Said()
        Labels labels
        const float* losses
        const float* model_losses
    cdef cppclass LearnedRow "clipper::Learned::Row":
        uint64_t context
        cbool has_context
        uint32_t first
        uint32_t count
    cdef cppclass Learned:
        Learned()
        void reserve(size_t most_rows, size_t models) except +
        vector[LearnedRow] rows
        vector[Observation] observations
    cdef cppclass AnsweredRow:
        AnsweredRow()
        uint64_t ticket
        uint32_t row
    cdef cppclass AnsweredRows "std::span<const clipper::AnsweredRow>":
        AnsweredRows(const AnsweredRow* rows, size_t count)
        size_t size() noexcept
    cdef cppclass OutputCopies:
        OutputCopies()
        uint16_t asks() noexcept
        Byte* output(uint16_t ask) noexcept
        const OutputLayout* layout() noexcept
    cdef cppclass Feedback:
        JoinRecords& records() noexcept
        void take(Application& application, AnsweredRows rows, const Said& said,
                  FeedbackStatus* statuses, Learned* learned) noexcept
        void take_refused(Application& application, AnsweredRows rows, const Said& said,
                          FeedbackStatus* statuses) noexcept
        FeedbackStatus look(Application& application, AnsweredRow row,
                            OutputCopies& copies) noexcept

        @staticmethod
        void take_answers(Application& application, Query& query, const Said& said,
                          FeedbackStatus* statuses, Learned* learned) noexcept


cdef extern from * nogil:
    """
    #include <new>
    #include "base/errors.h"

    static inline void clipper_raise_error() {
      try {
        throw;
      } catch (const clipper::Error& error) {
        PyErr_SetString(error.code() == clipper::ErrorCode::kInvalidArgument ? PyExc_ValueError
                                                                            : PyExc_RuntimeError,
                        error.what());
      } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
      } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
      }
    }
    """
    void raise_error "clipper_raise_error"()


cdef extern from "serving/standings.h" namespace "clipper" nogil:
    vector[Standing] standings_of(Application& application, const uint64_t* context) except +
    vector[Standing] standings_of_query "clipper::standings_of"(const Query& query) except +
    const Canary* canary_of(const Application& application) noexcept
    cbool has_withdrawn_canary(Application& application) noexcept
    void restart_canary(Application& application) noexcept


cdef extern from "serving/alarm_bell.h" namespace "clipper" nogil:
    cdef cppclass AlarmBell:
        cbool take() noexcept


cdef extern from "serving/engine.h" namespace "clipper" nogil:
    cdef cppclass Asking:
        Asking()
        Nanos budget_ns
        Nanos arrived_ns
        uint64_t context
        cbool has_context
        Priority priority
        cbool will_lead
        cbool may_lead
        cbool everyone
        Choices chosen
        Cause unasked
        cbool bypass_cache
        cbool attended
        Mailbox* mailbox
        void* owner

    enum class Refusal(uint8_t):
        kNone
        kClosed
        kForked
        kTooManyRows
        kOutOfMemory

    enum class WaitResult(uint8_t):
        kDone
        kTimedOut
        kInterrupted

    cdef cppclass Outcome:
        Outcome()
        Byte* outputs
        const OutputLayout* layout
        OutputRows* holder
        const Cause* causes
        const float* confidences
        Cause cause
        float confidence
        Nanos latency_ns
        Nanos queued_ns
        uint32_t error_id
        uint64_t ticket
        cbool all_answered

    cdef cppclass Engine:
        Engine(const Clock& clock, uint64_t seed, Nanos first_reserve_ns,
               const RecordOptions& records) except +
        Model& add_model(string name) except +
        Deployment& add_deployment(DeploymentOptions options) except +raise_error
        Application& add_application(string name, vector[Model*] models, unique_ptr[Policy] policy,
                                     Nanos slo_ns, float min_confidence,
                                     Priority priority, size_t context_bytes,
                                     unique_ptr[const Plan] plan) except +
        ShadowModel& add_shadow(Application& application, Model& model,
                                const RowSpec& output) except +
        Query* submit(Application& application, const ColumnRows* columns, uint32_t count,
                      const Asking& asking, Refusal& refusal) noexcept
        Batch* lead(Query& query, Nanos now_ns, Nanos run_limit_ns) except +
        Batch* lead_next_stage(Query& query, Nanos now_ns, Nanos run_limit_ns) except +
        Batch* lead_at_turn_end(Deployment& deployment, Nanos run_limit_ns) except +

        @staticmethod
        cbool is_driving(const Deployment& deployment) noexcept
        Batch* drive(Replica& replica, Nanos& retry_at_ns) except +
        Nanos complete(Batch& batch, const ColumnRows* outputs) except +
        Nanos fail(Batch& batch, Cause cause, uint32_t error_id) except +
        void stop_driving(Replica& replica) noexcept
        void flush(Deployment& deployment, Cause cause) except +
        WaitResult wait(Query& query, Nanos until_ns) noexcept
        cbool withdraw(Query& query, Cause cause) noexcept
        void collect(Query& query, Nanos held_ns, Outcome& outcome) except +
        const OutputLayout* open_combined(Query& query) except +
        void close_combined(Query& query, Nanos held_ns, Outcome& outcome) noexcept
        void collect_answers(Query& query) noexcept
        void release(Query& query) noexcept
        void run_reaper() noexcept
        AlarmBell& alarm_bell() noexcept
        void seed_random(uint64_t seed) noexcept
        void wake_reaper() noexcept
        Mailbox& reaper_box() noexcept
        void close() noexcept
        cbool is_closed() noexcept
        cbool is_forked() noexcept
        uint32_t open_queries() noexcept
        Reserve& reserve() noexcept
        Feedback& feedback() noexcept
        AtomicCount answers_lost


cdef extern from "queue/block_layout.h" namespace "clipper" nogil:
    cdef cppclass BlockColumn "clipper::BlockLayout::Column":
        size_t item_bytes
        size_t data_at
        size_t offsets_at
        int64_t items
        cbool ragged
    cdef cppclass BlockLayout:
        const vector[BlockColumn]& columns() noexcept
        uint32_t rows() noexcept


cdef extern from "isolation/worker_link.h" namespace "clipper" nogil:
    cdef cppclass LinkOptions:
        LinkOptions()
        size_t ragged_output_bytes
        vector[cbool] text_outputs
    cdef cppclass WorkerLink:
        WorkerLink(Deployment& deployment, const LinkOptions& options) except +
        void close() noexcept
        vector[int] descriptors() except +
        vector[uint64_t] segment_bytes() except +
        const BlockLayout& output_layout() noexcept
        size_t text_at() noexcept
        cbool has_copies() noexcept
        AtomicCount batches_copied
        AtomicCount bytes_copied
    const size_t kTextBytes "clipper::WorkerLink::kTextBytes"


cdef extern from "isolation/control_words.h" namespace "clipper" nogil:
    const uint32_t kProtocolVersion
    const uint32_t kLinkSlots


cdef extern from "isolation/worker_driver.h" namespace "clipper" nogil:
    enum class LinkEvent(uint8_t):
        kNothing
        kStopped
        kModelError
        kDied
        kTimedOut
        kNonsense
    cdef cppclass DriverOptions:
        DriverOptions()
        int pidfd
        Nanos timeout_ns
        uint32_t most_in_flight
        Nanos spin_ns
    cdef cppclass WorkerDriver:
        WorkerDriver(Engine& engine, Replica& replica, WorkerLink& link,
                     const DriverOptions& options) except +
        LinkEvent run() except +
        LinkEvent rehearse(const ColumnRows* source, uint32_t rows, Nanos& start_ns,
                           Nanos& end_ns) except +
        void fail_batch(uint32_t error_id) except +
        const string& text() noexcept
        uint32_t blamed_rows() noexcept
        Hash128 blamed_input() noexcept
        vector[Hash128] give_back(Nanos runnable_at_ns, uint32_t error_id) except +


cdef extern from "load/generator.h" namespace "clipper" nogil:
    cdef cppclass LoadPlan:
        LoadPlan()
        const Nanos* at_ns
        const uint32_t* chosen
        size_t arrivals
        const RowSpec* spec
        const ColumnRows* pool
        Nanos budget_ns
    cdef cppclass LoadRecord:
        LoadRecord()
        Nanos* latency_ns
        Nanos* late_ns
        Cause* causes
        float* confidences
        uint32_t* models
        Byte* outputs
        const OutputLayout* layout
    cdef cppclass LoadGenerator:
        LoadGenerator(Engine& engine, Application& application, const LoadPlan& plan,
                      const LoadRecord& record) except +
        void run() noexcept
        void stop() noexcept
        size_t asked() noexcept
        size_t ended() noexcept
