"""Replicas whose batches run in a worker process: the shared memory, and the loop over it."""

cimport cython
from libc.stdint cimport uint32_t
from libcpp.memory cimport unique_ptr
from libcpp.vector cimport vector

from clipper._core cimport native
from clipper._core.rows cimport RowSpec
from clipper._core.serving cimport DeploymentCore, EngineCore, ReplicaRunner, hash_text
from clipper._core.tensors cimport Spec

from clipper.errors import RemoteModelError, WorkerError

_EVENTS = {
    <int>native.LinkEvent.kStopped: "stopped", <int>native.LinkEvent.kDied: "died",
    <int>native.LinkEvent.kTimedOut: "timed out", <int>native.LinkEvent.kNonsense: "nonsense",
    <int>native.LinkEvent.kModelError: "model error", <int>native.LinkEvent.kNothing: "nothing",
}


@cython.final
cdef class IsolatedReplica:
    """What the engine shares with one worker of a replica, from its start to its end."""

    cdef readonly ReplicaRunner runner
    cdef unique_ptr[native.WorkerLink] link
    cdef unique_ptr[native.WorkerDriver] driver

    def __init__(self, ReplicaRunner runner, *, ragged_bytes):
        cdef native.LinkOptions options
        cdef Spec spec
        options.ragged_output_bytes = ragged_bytes
        for spec in runner.deployment.output.columns:
            options.text_outputs.push_back(<bint>(spec.kind == "text"))
        self.runner = runner
        self.link.reset(new native.WorkerLink(runner.deployment.handle[0], options))

    def watch(self, int pidfd, *, timeout_ns, most_in_flight, spin_ns):
        """Say whom to watch, and how; before anything runs."""
        cdef native.DriverOptions options
        cdef EngineCore core = self.runner.deployment.engine
        options.pidfd = pidfd
        options.timeout_ns = native.kNever if timeout_ns is None else timeout_ns
        options.most_in_flight = most_in_flight
        options.spin_ns = spin_ns
        self.driver.reset(new native.WorkerDriver(
            core.engine.get()[0], self.runner.handle[0], self.link.get()[0], options))

    # ---- what the worker is told --------------------------------------------------------------

    @property
    def descriptors(self):
        """Doorbells and segments, in the order of the protocol."""
        return list(self.link.get().descriptors())

    @property
    def segment_bytes(self):
        """Sizes of the segments, in the same order."""
        return list(self.link.get().segment_bytes())

    @property
    def has_copies(self):
        """Whether each slot has a segment for rows that had to be copied."""
        return self.link.get().has_copies()

    @property
    def output_rows(self):
        """Rows that an output segment holds at most."""
        return self.link.get().output_layout().rows()

    @property
    def output_places(self):
        """Of each output column: where its data and its offsets lie, and how many items fit."""
        cdef const native.BlockColumn* column
        cdef size_t i
        places = []
        for i in range(self.link.get().output_layout().columns().size()):
            column = &self.link.get().output_layout().columns()[i]
            places.append((column.data_at, column.offsets_at,
                           column.items if column.ragged else self.output_rows))
        return places

    @property
    def text_place(self):
        """Where an error's text lies in an output segment, and how long it may be."""
        return self.link.get().text_at(), native.kTextBytes

    # ---- serving ------------------------------------------------------------------------------

    def rehearse(self, batch):
        """Run a batch off the serving path. Returns when it began and ended, in nanoseconds.

        Raises RemoteModelError if the model raised, WorkerError if the worker failed.
        """
        cdef native.ColumnRows columns[native.kMaxColumns]
        cdef RowSpec spec = self.runner.deployment.input
        cdef Py_ssize_t rows = 0
        cdef native.Nanos start_ns = 0
        cdef native.Nanos end_ns = 0
        cdef native.LinkEvent event
        cdef native.WorkerDriver* driver = self.driver.get()
        holder = spec.read_rows(batch, columns, &rows)
        with nogil:
            event = driver.rehearse(columns, <uint32_t>rows, start_ns, end_ns)
        del holder
        if event == native.LinkEvent.kModelError:
            raise RemoteModelError(self._text())
        if event != native.LinkEvent.kNothing:
            raise WorkerError(_EVENTS[<int>event], self._text())
        return start_ns, end_ns

    def serve(self):
        """Serve until the replica is stopped or the worker fails. On the replica's thread.

        Returns what happened: "stopped", "died", "timed out" or "nonsense".
        """
        cdef DeploymentCore deployment = self.runner.deployment
        cdef native.WorkerDriver* driver = self.driver.get()
        cdef native.LinkEvent event
        while True:
            with nogil:
                event = driver.run()
            if event != native.LinkEvent.kModelError:
                return _EVENTS[<int>event]
            driver.fail_batch(deployment.note_error(RemoteModelError(self._text())))

    def text(self):
        """What was wrong with the worker's words."""
        return self._text()

    cdef str _text(self):
        return self.driver.get().text().decode("utf-8", "replace")

    @property
    def blamed(self):
        """Rows that the worker was running when it ended, and the input's name if it is one."""
        cdef uint32_t rows = self.driver.get().blamed_rows()
        cdef native.Hash128 input
        if rows != 1:
            return rows, None
        input = self.driver.get().blamed_input()
        return rows, hash_text(input.low, input.high)

    def give_back(self, runnable_in_ns, error):
        """Let the rows of a dead worker wait again, or end them with cause CRASH.

        Parameters
        ----------
        runnable_in_ns : int or None
            When a worker will run here again; None: never.
        error : Exception
            Why it died.

        Returns
        -------
        list of (str, int)
            Inputs that are refused from now on, and the error's number.
        """
        cdef DeploymentCore deployment = self.runner.deployment
        cdef EngineCore core = deployment.engine
        cdef native.Nanos now_ns = core.clock.now_ns()
        cdef native.Nanos at_ns = native.kNever
        cdef vector[native.Hash128] refused
        self.runner.handle.set_available_at(
            native.kNever if runnable_in_ns is None else now_ns + runnable_in_ns)
        if deployment.handle.has_available_replica(now_ns):
            at_ns = now_ns
        elif runnable_in_ns is not None:
            at_ns = now_ns + runnable_in_ns
        error_id = deployment.note_error(error)
        refused = self.driver.get().give_back(at_ns, error_id)
        return [(hash_text(found.low, found.high), error_id) for found in refused]

    def close(self):
        """Ask the worker to end."""
        self.link.get().close()

    def statistics(self):
        """Counters of the link."""
        return {"copied_batches": self.link.get().batches_copied.load(),
                "copied_bytes": self.link.get().bytes_copied.load()}


def set_available_in(ReplicaRunner runner, nanoseconds):
    """Say when a replica can run; None: never again. Whether any of its deployment ever will."""
    cdef EngineCore core = runner.deployment.engine
    runner.handle.set_available_at(
        native.kNever if nanoseconds is None
        else 0 if nanoseconds == 0 else core.clock.now_ns() + nanoseconds)
    return runner.deployment.handle.has_live_replica()


PROTOCOL_VERSION = native.kProtocolVersion
SLOTS = native.kLinkSlots
