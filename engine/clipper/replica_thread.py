"""The thread of an in-process replica: loads the model, warms it up, then drives it."""

import os
import queue
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from clipper_worker.limits import load_within

from ._core.batches import check_outputs
from ._core.rows import RowSpec
from ._core.serving import ReplicaRunner
from .errors import DeployError
from .model_protocol import ModelAdapter, Runner
from .resources.grant import Grant
from .resources.granting import release
from .row_examples import batch_of, resized, type_of_outputs
from .tensor import RowType

#: Warm-up ends when a batch takes this long, or when all of it has taken ten times as long.
_WARM_UP_BATCH_SECONDS = 0.05
_RUNS_PER_SIZE = 5


class ReplicaThread:
    """Owns one replica's thread, through three steps that the deployer waits for one by one.

    ``load`` on start; ``warm_up`` and then serving once ``go`` hands over the replica.
    """

    def __init__(self, adapter: ModelAdapter | None, grant: Grant, name: str) -> None:
        self.runner: Runner | None = None
        self.probed: RowType | None = None  # the outputs, as the first run showed them
        self.single_row_seconds: float | None = None  # median, as warmed up
        self.grant = grant
        self._adapter = adapter
        self._steps: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._orders: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._core: ReplicaRunner | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, example: Any, input: RowType | None, output: RowType | None) -> None:
        """Start to load the model and, with an example row, to run it once."""
        self._example = example
        self._input = input
        self._output = output
        self._thread.start()

    def go(self, core: ReplicaRunner, largest_batch: int) -> None:
        """Hand the replica over: warm it up, then serve."""
        self._core = core
        self._orders.put((core, largest_batch))

    def wait(self, until: float, step: str) -> None:
        """Wait for the end of a step; ``until`` is a time of ``time.monotonic``."""
        try:
            error = self._steps.get(timeout=max(until - time.monotonic(), 0.0))
        except queue.Empty:
            raise DeployError(
                f"the model was not ready in time: it is still in its {step}; give a longer "
                "ready_timeout, or see why it hangs"
            ) from None
        if error is not None:
            raise DeployError(
                f"the model's {step} failed: {type(error).__name__}: {error}"
            ) from error

    def stop(self) -> None:
        """End the thread after the batch that runs now. Does not wait."""
        self._orders.put(None)
        if self._core is not None:
            self._core.stop()

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end; False: the model has not returned."""
        if self._thread is threading.current_thread():
            return False
        self._thread.join(max(timeout, 0.0))
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._load_and_serve()
        finally:
            self.grant.leave_thread()
            release([self.grant])

    def _load_and_serve(self) -> None:
        try:
            assert self._adapter is not None
            self.grant.enter_thread(threading.get_native_id())
            runner: Runner = load_within(
                self._adapter, self.grant.device, self.grant.threads, self.grant.gpu_memory
            )
            self.runner = runner
            if self._example is not None:
                self.probed = self._probe(runner)
        except BaseException as error:
            self._steps.put(error)
            return
        self._steps.put(None)
        order = self._orders.get()
        if order is None:
            return
        core, largest_batch = order
        try:
            if self._example is not None:
                self._warm_up(core, runner, largest_batch)
        except BaseException as error:
            self._steps.put(error)
            return
        self.grant.note_loaded(os.getpid())
        self._steps.put(None)
        core.serve()

    def _probe(self, runner: Runner) -> RowType:
        input: Any = self._input
        outputs = _call(runner, batch_of(input, self._example, 1))
        if self._output is None:
            return type_of_outputs(outputs)
        check_outputs(RowSpec(self._output), outputs, 1, "the model")
        return self._output

    def _warm_up(self, core: ReplicaRunner, runner: Runner, largest_batch: int) -> None:
        """Teach the controllers what batches take, for every bucket of lengths."""
        deployment = core.deployment
        input: Any = self._input

        def run(batch: Any) -> tuple[int, int]:
            start_ns = time.monotonic_ns()
            outputs = _call(runner, batch)
            end_ns = time.monotonic_ns()
            first = next(iter(batch.values())) if isinstance(batch, dict) else batch  # pyright: ignore
            rows = len(first)  # pyright: ignore
            check_outputs(deployment.output, outputs, rows, deployment.name)
            return start_ns, end_ns

        for lane, length in enumerate(deployment.length_buckets or (None,)):
            example = self._example if length is None else resized(input, self._example, length)
            times = warm_up(core, run, partial(batch_of, input, example), largest_batch, lane)
            self.single_row_seconds = statistics.median(times)


def _call(runner: Runner, batch: Any) -> Any:
    return runner(**batch) if isinstance(batch, dict) else runner(batch)


def warm_up(
    core: ReplicaRunner,
    run: Callable[[Any], tuple[int, int]],
    make_batch: Callable[[int], Any],
    largest: int,
    lane: int,
) -> list[float]:
    """Run batches of 1, 2, 4, … rows, and teach the replica's controller what they take.

    ``run`` runs one, checks what it returns, and says when it began and ended, in nanoseconds.
    Returns the seconds that the batches of one row took.
    """
    began = time.monotonic()
    single_row: list[float] = []
    rows = 1
    while True:
        batch = make_batch(rows)
        # The first runs of a size pay for lazy set-up: they teach nothing that lasts.
        discarded = 2 if rows == 1 else 1
        start_ns = end_ns = 0
        for i in range(discarded + _RUNS_PER_SIZE):
            start_ns, end_ns = run(batch)
            if i >= discarded:
                core.observe(rows, start_ns, end_ns, lane)
            if rows == 1 and i >= discarded:
                single_row.append((end_ns - start_ns) * 1e-9)
        is_slow = (end_ns - start_ns) * 1e-9 > _WARM_UP_BATCH_SECONDS
        has_taken_long = time.monotonic() - began > 10 * _WARM_UP_BATCH_SECONDS and core.is_warm
        if is_slow or has_taken_long or rows * 2 > largest:
            return single_row
        rows *= 2
