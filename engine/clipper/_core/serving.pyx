"""Engine, deployments and replicas: what owns the C++ core, and what runs its batches."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libcpp.memory cimport shared_ptr, unique_ptr
from libcpp.utility cimport move
from libcpp.vector cimport vector

from clipper._core cimport native
from clipper._core.arguments cimport nanoseconds
from clipper._core.batches cimport inputs_of, read_outputs
from clipper._core.rows cimport RowSpec
from clipper._core.statistics cimport describe_statistics, log_drift

import collections
import hashlib
import hmac
import logging
import os
import traceback
import weakref

from clipper.errors import EngineClosedError, ForkedEngineError, OverloadedError

_log = logging.getLogger("clipper")
_ERRORS_KEPT = 32
_MOST_LASTING = 4096
cdef Py_ssize_t _MOST_ROWS = 16_777_215
cdef native.Nanos _FIRST_RESERVE_NS = 500_000
# In a query's id, beside its row.
cdef unsigned int _NEVER_KEPT = 1 << 31
cdef unsigned int _NOT_KEPT = 1 << 30


@cython.final
cdef class EngineCore:
    """Owns one C++ engine. Used through ``clipper.Engine``."""

    def __cinit__(self, feedback_bytes=64 << 20, feedback_window=600.0):
        cdef native.RecordOptions records
        records.bytes = feedback_bytes
        records.window_ns = nanoseconds(feedback_window, "feedback_window")
        seed = int.from_bytes(os.urandom(8), "little")
        self.engine.reset(new native.Engine(self.clock, <uint64_t>seed, _FIRST_RESERVE_NS, records))
        self._secret = os.urandom(32)
        self._deployments = []
        self.ports = []
        self.watched = set()
        self.alarmed = weakref.WeakSet()
        self.statistics_window_ns = 60_000_000_000

    cdef native.Query* submit(self, native.Application* application,
                              const native.ColumnRows* columns, Py_ssize_t count,
                              native.Asking* asking) except NULL:
        cdef native.Refusal refusal = native.Refusal.kNone
        if count > _MOST_ROWS:  # before it is cut to 32 bits
            self._refuse(<int>native.Refusal.kTooManyRows, count)
        cdef native.Query* query = self.engine.get().submit(
            application[0], columns, <uint32_t>count, asking[0], refusal)
        if query == NULL:
            self._refuse(<int>refusal, count)
        return query

    def _refuse(self, int refusal, count):
        if refusal == <int>native.Refusal.kForked:
            raise ForkedEngineError(
                "this engine was made before the process forked and cannot be used in the child: "
                "make one engine in each process, after the fork")
        if refusal == <int>native.Refusal.kClosed:
            raise EngineClosedError("the engine is closed: make a new one, or close it later")
        if refusal == <int>native.Refusal.kTooManyRows:
            raise ValueError(f"{count} rows in one call: ask for at most 16,777,215 at a time")
        raise OverloadedError("too many queries are outstanding, or memory is exhausted")

    def check_usable(self):
        """Raise if the engine is closed, or was made before a fork."""
        if self.engine.get().is_forked():
            self._refuse(<int>native.Refusal.kForked, 0)
        if self.engine.get().is_closed():
            self._refuse(<int>native.Refusal.kClosed, 0)

    @property
    def is_forked(self):
        return self.engine.get().is_forked()

    @property
    def is_closed(self):
        return self.engine.get().is_closed()

    @property
    def answers_lost(self):
        """Rows whose answers came after their query had ended."""
        return self.engine.get().answers_lost.load()

    @property
    def open_queries(self):
        """Queries that have not ended; looks at all of them."""
        return self.engine.get().open_queries()

    def close(self):
        """End every open query; refuse new ones."""
        self.engine.get().close()

    def shut_down(self):
        """Close it and let its threads end, without waiting. What a forgotten engine comes to."""
        cdef DeploymentCore deployment
        cdef ReplicaRunner runner
        if self.engine.get().is_forked():
            return
        self.engine.get().close()
        for deployment in self._deployments:
            deployment.close()
            for runner in deployment.runners:
                runner.stop()

    def seed_random(self, uint64_t seed):
        """Let chance go the same way after every call with the same seed. For tests."""
        self.engine.get().seed_random(seed)

    def wake_reaper(self):
        self.engine.get().wake_reaper()

    def reap(self):
        """Run the reaper until the engine closes: end unattended queries in time, run callbacks.

        It takes the GIL for callbacks alone: who asks for it at every deadline takes it from models
        in mid-batch.
        """
        while not self.engine.get().is_closed():
            with nogil:
                self.engine.get().run_reaper()
            self._take_letters()
            if self.engine.get().alarm_bell().take():
                self._log_alarms()
        self._take_letters()  # close() ended queries while a callback ran

    cdef object _log_alarms(self):
        cdef DeploymentCore deployment
        for application in tuple(self.alarmed):
            application._log_alarms()
        for deployment in tuple(self._deployments):
            log_drift(&deployment.handle.statistics(), deployment.name, deployment.version)

    cdef object _take_letters(self):
        cdef native.Letter* letter = self.engine.get().reaper_box().take_all()
        cdef native.Letter* following
        while letter != NULL:
            following = letter.next_letter
            try:
                (<object>(<native.Query*>letter).owner)._on_letter()
            except BaseException:  # those of the other letters wait for theirs
                _log.exception("a future could not be completed")
            letter = following

    def query_id(self, number, ticket, row):
        """An opaque name for a query's row: keyed, so that none can be guessed from others."""
        if ticket == native.kNoTicket:
            named, what = number, row | _NEVER_KEPT
        elif ticket == native.kNotKept:
            named, what = number, row | _NOT_KEPT
        else:
            named, what = ticket, row
        name = named.to_bytes(8, "big") + what.to_bytes(4, "big")
        return name.hex() + self._seal(name)

    def read_query_id(self, str query_id):
        """The ticket and the row that an id names; no ticket if it is not one of this engine's."""
        try:
            name = bytes.fromhex(query_id[:24])
        except ValueError:
            return native.kNoTicket, 0
        # The rest is compared as it was written, so that each name has one id.
        if query_id[:24] != name.hex() or not hmac.compare_digest(
                query_id[24:].encode(), self._seal(name).encode()):
            return native.kNoTicket, 0
        what = int.from_bytes(name[8:], "big")
        row = what & WHOLE_CALL
        if what & _NEVER_KEPT:
            return native.kNoTicket, row
        return native.kNotKept if what & _NOT_KEPT else int.from_bytes(name[:8], "big"), row

    def _seal(self, name):
        return hashlib.blake2b(name, key=self._secret, digest_size=8).hexdigest()

    def feedback_records(self):
        """What is kept of answered queries for their feedback, and within which bounds."""
        cdef native.JoinRecords* records = &self.engine.get().feedback().records()
        cdef native.RecordStatistics kept = records.statistics()
        return {"records": kept.records, "bytes": kept.bytes, "memory": records.capacity(),
                "window": records.window_ns() * 1e-9}

    def add_deployment(self, str name, version, RowSpec input, RowSpec output, *, max_queue,
                       row_budget, max_batch, caller_runs, length_buckets=(), cache=None,
                       most_batch=0xFFFFFFFF, most_in_flight=1, callers_carry=False):
        """Make a deployment without replicas. cache: bytes, and nanoseconds or None."""
        cdef native.DeploymentOptions options
        options.input = input.to_native()
        options.output = output.to_native()
        options.max_queue = max_queue
        options.row_budget_bytes = row_budget
        options.max_batch = max_batch
        options.most_batch = most_batch
        options.most_in_flight = most_in_flight
        options.caller_runs = caller_runs
        options.callers_carry = callers_carry
        options.statistics.window_ns = self.statistics_window_ns
        for length in length_buckets:
            options.lane_edges.push_back(length)
        if cache is not None:
            options.cache.bytes = cache[0]
            options.cache.ttl_ns = native.kNever if cache[1] is None else cache[1]
        cdef DeploymentCore deployment = DeploymentCore.__new__(DeploymentCore)
        deployment.handle = &self.engine.get().add_deployment(options)
        deployment.handle.owner = <void*>deployment
        deployment.engine = self
        deployment.name = name
        deployment.version = version
        deployment.input = input
        deployment.output = output
        deployment.length_buckets = tuple(length_buckets)
        # Kept as long as the engine: the core never forgets a deployment either.
        self._deployments.append(deployment)
        return deployment


@cython.final
cdef class DeploymentCore:
    """One deployment, as the hot path sees it."""

    def __cinit__(self):
        self.runners = []
        self.errors = collections.deque(maxlen=_ERRORS_KEPT)
        self.error_counts = {}
        self._lasting_errors = {}

    def add_replica(self, controller, call, bint as_dlpack):
        """Add a replica whose batches `call` runs. Before serving only."""
        cdef vector[unique_ptr[native.Controller]] strategies
        cdef unique_ptr[native.Controller] strategy
        cdef shared_ptr[native.LatencyModel] nothing_known
        for _lane in range(self.handle.lanes()):
            strategy = make_controller(controller, nothing_known)
            strategies.push_back(move(strategy))
        cdef ReplicaRunner runner = ReplicaRunner.__new__(ReplicaRunner)
        runner.deployment = self
        runner.call = call
        runner.as_dlpack = as_dlpack
        runner.handle = &self.handle.add_replica(move(strategies))
        runner.handle.owner = <void*>runner
        self.runners.append(runner)
        return runner

    def set_batching(self, controller):
        """Let another strategy decide from the next batch on; what batches take stays known."""
        cdef unique_ptr[native.Controller] strategy
        cdef native.Replica* replica
        for runner in self.runners:
            replica = (<ReplicaRunner>runner).handle
            for lane in range(self.handle.lanes()):
                strategy = make_controller(controller, replica.controller(lane).shared_latency())
                replica.set_controller(lane, move(strategy))

    @property
    def max_queue(self):
        """Requests that may wait."""
        return self.handle.max_queue()

    @max_queue.setter
    def max_queue(self, requests):
        self.handle.set_max_queue(requests)

    @property
    def max_batch(self):
        """No batch has more rows."""
        return self.handle.max_batch()

    @max_batch.setter
    def max_batch(self, rows):
        self.handle.set_max_batch(rows)

    @property
    def most_batch_rows(self):
        """What max_batch can be at most, for want of memory for more."""
        return self.handle.most_batch_rows()

    cdef unsigned int note_error(self, object error) except 0:
        """Keep an error's text for the operator; the id leads predictions to it."""
        self._last_error = self._last_error % 0xFFFFFFFF + 1
        # Of a worker's model its own words count: "ValueError: …", and the traceback over there.
        remote = getattr(error, "remote_traceback", None)
        kind = type(error).__name__ if remote is None else str(error).partition(":")[0]
        self.error_counts[kind] = self.error_counts.get(kind, 0) + 1
        line = f"{kind}: {error}" if remote is None else str(error)
        text = "".join(traceback.format_exception(error)) if remote is None else remote
        self.errors.append((self._last_error, line, text))
        return self._last_error

    def error_text(self, unsigned int error_id):
        """Return the one-line text of a recent error; None if it is forgotten."""
        if error_id in self._lasting_errors:
            return self._lasting_errors[error_id]
        for known, line, _ in self.errors:
            if known == error_id:
                return line
        return None

    def note_lasting_error(self, unsigned int error_id, line):
        """Give an error that explains further refusals another text, which is not forgotten."""
        self._lasting_errors[error_id] = line
        while len(self._lasting_errors) > _MOST_LASTING:
            del self._lasting_errors[next(iter(self._lasting_errors))]

    def clear_cache(self):
        """Forget all answers; those under way are given, but not kept."""
        if self.handle.cache() != NULL:
            self.handle.cache().clear()

    @property
    def cache_statistics(self):
        """Counters of the cache, bytes, and seconds; None: it has none."""
        cdef native.CacheStatistics counted
        cdef native.PredictionCache* cache = self.handle.cache()
        if cache == NULL:
            return None
        counted = cache.statistics()
        asked = counted.hits + counted.joined + counted.misses
        ttl_ns = cache.options().ttl_ns
        return {
            "hits": counted.hits,
            "joined": counted.joined,
            "misses": counted.misses,
            "hit_rate": counted.hits / asked if asked else 0.0,
            "evictions": counted.evictions,
            "entries": counted.entries,
            "bytes": counted.bytes,
            "max_bytes": cache.options().bytes,
            "ttl": None if ttl_ns == native.kNever else ttl_ns * 1e-9,
        }

    def close(self):
        """Take no more rows."""
        self.handle.close()
        self.handle.wake_a_driver()  # whoever was about to lead may look at another version by now

    @property
    def outstanding(self):
        """Rows that were accepted and are not answered yet."""
        return self.handle.outstanding()

    @property
    def has_available_replica(self):
        """Whether some replica can run now."""
        return self.handle.has_available_replica(self.engine.clock.now_ns())

    def flush(self, cause):
        """End the rows that wait. REQUIRES: closed."""
        self.engine.engine.get().flush(self.handle[0], <native.Cause><int>cause.value)

    def free(self):
        """Give memory and models back. REQUIRES: closed, nothing outstanding, threads stopped."""
        cdef ReplicaRunner runner
        self.handle.free_memory()
        for runner in self.runners:
            runner.call = None

    def describe_outputs(self):
        """What outputs and losses are like over time, and whether they drift."""
        return describe_statistics(&self.handle.statistics(), self.engine.clock.now_ns(),
                                   self.output.names)

    def reset_outputs(self):
        """Forget that: what comes next is what is usual."""
        self.handle.statistics().reset()

    def statistics(self):
        """Counters of this deployment."""
        cdef native.Deployment* handle = self.handle
        return {
            "max_queue": handle.max_queue(),
            "max_batch": handle.max_batch(),
            "waiting_rows": handle.waiting_rows(),
            "outstanding_rows": handle.outstanding(),
            "arrived_rows": handle.arrived_rows(),
            "expired_rows": handle.rows_expired.load(),
            "hopeless_rows": handle.rows_hopeless.load(),
            "refused_rows": handle.rows_refused.load(),
            "withdrawn_rows": handle.rows_withdrawn.load(),
            "errors": dict(self.error_counts),
            "cache": self.cache_statistics,
            "refused_inputs": [hash_text(found.low, found.high)
                               for found in handle.quarantine().refused()],
            "replicas": [runner.statistics() for runner in self.runners],
        }


cdef str hash_text(uint64_t low, uint64_t high):
    """How an input is named."""
    return f"{high:016x}{low:016x}"


cdef unique_ptr[native.Controller] make_controller(
        object strategy, shared_ptr[native.LatencyModel] known) except *:
    cdef unique_ptr[native.Controller] made
    cdef native.DeadlineOptions options
    cdef native.AimdOptions aimd_options
    cdef native.QuantileOptions quantile_options
    kind, value = strategy.to_core()
    if kind == "fixed":
        made.reset(new native.FixedController(value["rows"], known))
    elif kind == "aimd":
        made.reset(new native.AimdController(aimd_options, known))
    elif kind == "quantile":
        made.reset(new native.QuantileController(quantile_options, known))
    elif kind == "deadline":
        options.max_batch = value["max_batch"]
        options.delay_ns = value["delay_ns"]
        made.reset(new native.DeadlineController(options, known))
    else:
        raise ValueError(f"unknown batching strategy {kind!r}")
    return move(made)


@cython.final
cdef class ReplicaRunner:
    """One replica: how its batches are run, and the loop of its thread."""

    def observe(self, rows, start_ns, end_ns, lane=0):
        """Teach the controller a run off the serving path. Before serving only."""
        cdef native.Run run
        run.rows = rows
        run.start_ns = start_ns
        run.end_ns = end_ns
        run.failed = False
        self.handle.controller(self._checked(lane)).observe(run)

    def bound(self, rows, lane=0):
        """Seconds that a batch of `rows` should take at most; 0 if not known yet."""
        return self.handle.controller(self._checked(lane)).run_bound_ns(rows) * 1e-9

    @property
    def is_warm(self):
        """Whether enough has been seen for admission to trust the bounds."""
        return self.handle.is_warm()

    cdef int _checked(self, lane) except -1:
        if not 0 <= lane < self.deployment.handle.lanes():
            raise ValueError(f"lane is {lane!r}: there are {self.deployment.handle.lanes()}")
        return lane

    def stop(self):
        """End serve() after the batch that runs now."""
        self.handle.stop()

    def serve(self):
        """Drive the replica whenever no caller leads, until stop(). On the replica's thread."""
        cdef EngineCore core = self.deployment.engine
        cdef native.Replica* replica = self.handle
        cdef native.Nanos retry_at_ns = native.kNever
        cdef native.Nanos ready_ns = 0
        cdef uint64_t seen_arrivals = 0
        cdef const uint64_t* seen = NULL
        cdef native.Batch* batch
        cdef native.MonotonicClock* clock = &core.clock
        cdef bint running
        while True:
            with nogil:
                running = replica.wait_for_work(clock[0], retry_at_ns, seen)
                ready_ns = clock.now_ns()
            if not running:
                return
            self._note_gil_wait(clock.now_ns() - ready_ns)
            # Claim only now that the GIL is ours: whoever led meanwhile has taken the rows along.
            seen_arrivals = replica.deployment().arrived_rows()
            batch = core.engine.get().drive(replica[0], retry_at_ns)
            seen = &seen_arrivals if retry_at_ns != native.kNever else NULL
            if batch != NULL:
                try:
                    run_batch(core, batch)
                except BaseException:  # SystemExit, say: its rows have failed, the replica lives
                    _log.exception("model %s raised what ends threads", self.deployment.name)
            elif seen == NULL:
                replica.note_needless_wake()

    cdef _note_gil_wait(self, native.Nanos waited_ns):
        self.gil_waits += 1
        self.gil_wait_ns += waited_ns
        # A look now and then is enough, and costs nothing per batch.
        if self.gil_waits % 256 == 0:
            busy_ns = self.handle.busy_ns.load()
            if self.gil_wait_ns > busy_ns // 10 and not self._has_warned:
                self._has_warned = True
                _log.warning(
                    "model %s waits for the GIL %.0f %% as long as it runs, because other Python "
                    "threads compute beside it: let them release it, or give the model a "
                    "process of its own with where=clipper.Isolated()",
                    self.deployment.name, 100 * self.gil_wait_ns / max(busy_ns, 1))

    def statistics(self):
        """Counters of this replica; times in seconds."""
        cdef native.Replica* replica = self.handle
        cdef native.HistogramSnapshot sizes = replica.batch_rows.snapshot()
        cdef native.HistogramSnapshot runs = replica.run_ns.snapshot()
        return {
            "batches": replica.batches_run.load(),
            "rows": replica.rows_run.load(),
            "gathered_batches": replica.batches_gathered.load(),
            "failed_batches": replica.batches_failed.load(),
            "busy_seconds": replica.busy_ns.load() * 1e-9,
            "batch_rows": {"mean": sizes.mean_ns(), "p50": sizes.quantile_ns(0.5),
                           "p99": sizes.quantile_ns(0.99), "max": sizes.max_ns()},
            "run_seconds": {"p50": runs.quantile_ns(0.5) * 1e-9,
                            "p99": runs.quantile_ns(0.99) * 1e-9, "max": runs.max_ns() * 1e-9},
            "gil_wait_seconds": self.gil_wait_ns * 1e-9,
            "warm": replica.is_warm(),
        }

    def batch_sizes(self):
        """Batches run of each size: exact up to 32 rows, above that 3 % too large at most."""
        cdef native.HistogramSnapshot sizes = self.handle.batch_rows.snapshot()
        return {native.HistogramSnapshot.upper_bound(bucket): sizes.count_of(bucket)
                for bucket in range(native.kHistogramBuckets) if sizes.count_of(bucket)}


cdef native.Nanos run_batch(EngineCore core, native.Batch* batch) except -1:
    """Run a claimed batch to its end: whatever the model does, its rows are answered.

    Returns when it ended. One that is none of the model's business (KeyboardInterrupt) goes on.
    """
    cdef native.Replica* replica = batch.replica
    cdef ReplicaRunner runner = <ReplicaRunner>replica.owner
    cdef DeploymentCore deployment = runner.deployment
    cdef native.ColumnRows columns[native.kMaxColumns]
    cdef object outputs
    cdef native.Nanos ended_ns
    try:
        inputs = inputs_of(batch, deployment.input, runner.as_dlpack)
        if deployment.input.names is None:
            outputs = runner.call(inputs)
        else:
            outputs = runner.call(**inputs)
        outputs = read_outputs(deployment.output, outputs, batch.rows, deployment.name, columns)
        ended_ns = core.engine.get().complete(batch[0], columns)
    except BaseException as error:
        ended_ns = core.engine.get().fail(batch[0], native.Cause.kModelError,
                                          deployment.note_error(error))
        if not isinstance(error, Exception):
            raise
    finally:
        core.engine.get().stop_driving(replica[0])
    return ended_ns
