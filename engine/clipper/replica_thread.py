"""The thread of an in-process replica: loads the model, warms it up, then drives it."""

import queue
import statistics
import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._core.serving import ReplicaRunner, convert_outputs
from ._core.tensors import Spec
from .errors import DeployError
from .model_protocol import ModelAdapter, Runner
from .tensor import Tensor

#: Warm-up ends when a batch takes this long, or when all of it has taken ten times as long.
_WARM_UP_BATCH_SECONDS = 0.05
_RUNS_PER_SIZE = 5


class ReplicaThread:
    """Owns one replica's thread, through three steps that the deployer waits for one by one.

    ``load`` on start; ``warm_up`` and then serving once ``go`` hands over the replica.
    """

    def __init__(self, adapter: ModelAdapter, device: str, name: str) -> None:
        self.runner: Runner | None = None
        self.probed: Tensor | None = None  # the output's spec, as the first run showed it
        self.single_row_seconds: float | None = None  # median, as warmed up
        self._adapter = adapter
        self._device = device
        self._steps: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._orders: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._core: ReplicaRunner | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, example: NDArray[Any] | None) -> None:
        """Start to load the model and, with an example row, to run it once."""
        self._example = example
        self._thread.start()

    def go(self, core: ReplicaRunner, output: Spec, largest_batch: int) -> None:
        """Hand the replica over: warm it up, then serve."""
        self._core = core
        self._orders.put((core, output, largest_batch))

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
            self.runner = self._adapter.load(self._device)
            if self._example is not None:
                self.probed = _probe(self.runner, self._example)
        except BaseException as error:
            self._steps.put(error)
            return
        self._steps.put(None)
        order = self._orders.get()
        if order is None:
            return
        core, output, largest_batch = order
        try:
            if self._example is not None:
                times = _warm_up(core, self.runner, self._example, output, largest_batch)
                self.single_row_seconds = statistics.median(times)
        except BaseException as error:
            self._steps.put(error)
            return
        self._steps.put(None)
        core.serve()


def _batch_of(example: NDArray[Any], rows: int) -> NDArray[Any]:
    batch = np.ascontiguousarray(np.broadcast_to(example, (rows, *example.shape)))
    batch.flags.writeable = False  # as batches are when it serves
    return batch


def _probe(runner: Runner, example: NDArray[Any]) -> Tensor:
    outputs = runner(_batch_of(example, 1))
    if outputs is None:
        raise TypeError("it returned None for a batch of one row: does it return its outputs?")
    array = np.asarray(outputs)
    if array.ndim == 0 or array.shape[0] != 1:
        raise ValueError(
            f"it returned an array of shape {array.shape} for a batch of one row: a model is "
            "called with a batch and returns one output for each row"
        )
    return Tensor(array.dtype, array.shape[1:])


def _warm_up(
    core: ReplicaRunner, runner: Runner, example: NDArray[Any], output: Spec, largest_batch: int
) -> list[float]:
    """Run 1, 2, 4, … copies of the example, and teach the replica's controller what they take.

    Returns the seconds that the batches of one row took.
    """
    began = time.monotonic()
    single_row: list[float] = []
    rows = 1
    while True:
        batch = _batch_of(example, rows)
        # The first runs of a size pay for lazy set-up: they teach nothing that lasts.
        discarded = 2 if rows == 1 else 1
        start_ns = end_ns = 0
        for run in range(discarded + _RUNS_PER_SIZE):
            start_ns = time.monotonic_ns()
            outputs = runner(batch)
            end_ns = time.monotonic_ns()
            convert_outputs(output, outputs, rows, core.deployment.name)
            if run >= discarded:
                core.observe(rows, start_ns, end_ns)
            if rows == 1 and run >= discarded:
                single_row.append((end_ns - start_ns) * 1e-9)
        is_slow = (end_ns - start_ns) * 1e-9 > _WARM_UP_BATCH_SECONDS
        has_taken_long = time.monotonic() - began > 10 * _WARM_UP_BATCH_SECONDS and core.is_warm
        if is_slow or has_taken_long or rows * 2 > largest_batch:
            return single_row
        rows *= 2
