"""One thread that measures what replicas use, and ends workers that have too much."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from clipper.sizes import to_text

from .inventory import Inventory
from .nvml import read_inventory
from .processes import cpu_seconds_of_thread, usage_of_process

_log = logging.getLogger("clipper")

#: How often usage is measured, and how often memory where no control group limits it.
MEASURE_SECONDS = 1.0
GUARD_SECONDS = 0.05


class Meter:
    """Measures one replica: a worker's process, or a thread of this one.

    Parameters
    ----------
    pid : int
        The worker's.
    tid : int
        The thread's, where there is no worker; of its memory nothing is known then.
    gpu : str
        UUID of its GPU, if it has one.
    memory, gpu_memory : int, optional
        Bytes that it may use, where nothing else sees to that.
    end : callable, optional
        Ends the worker.
    """

    def __init__(
        self, *, pid: int = 0, tid: int = 0, gpu: str = "", memory: int | None = None,
        gpu_memory: int | None = None, end: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self.pid = pid
        self.gpu = gpu
        self.verdict: str = ""  # why it was ended, if it was
        self.is_guarded: bool = memory is not None
        self._tid = tid
        self._memory = memory
        self._gpu_memory = gpu_memory
        self._end = end
        self._last: tuple[float, float] | None = None
        self._used: dict[str, Any] = {
            "cpu": None, "resident": None, "gpu_memory": None, "gpu_utilisation": None
        }  # fmt: skip
        self._lock = threading.Lock()

    def measure(self) -> None:
        """Read what it uses now; CPU is the mean since the last time."""
        now = time.monotonic()
        if self.pid:
            usage = usage_of_process(self.pid)
            if usage is None:
                return
            seconds, resident = usage
        else:
            read = cpu_seconds_of_thread(self._tid)
            if read is None:
                return
            seconds, resident = read, None
        with self._lock:
            if self._last is not None and now > self._last[0]:
                rate = (seconds - self._last[1]) / (now - self._last[0])
                self._used["cpu"] = round(max(rate, 0.0), 3)
            self._last = (now, seconds)
            self._used["resident"] = resident

    def measure_gpu(self, inventory: Inventory) -> None:
        """Take what the driver says of its GPU, and hold its budget against it."""
        for gpu in inventory.gpus:
            if gpu.uuid == self.gpu:
                used = gpu.processes.get(self.pid or os.getpid(), -1)
                self._used["gpu_memory"] = None if used < 0 else used
                self._used["gpu_utilisation"] = gpu.utilisation
                if self._gpu_memory is not None and self._end is not None:
                    self._judge(used, self._gpu_memory, "GPU memory ")

    def guard(self) -> None:
        """End the worker if it has more memory than it may."""
        usage = usage_of_process(self.pid) if self._memory is not None else None
        if usage is not None and self._memory is not None:
            self._judge(usage.resident, self._memory, "")

    def read(self) -> dict[str, Any]:
        """Return the last measurement: CPUs' time per time, bytes, shares; None: not known."""
        if self._last is None:
            self.measure()
        return dict(self._used)

    def _judge(self, used: int, allowed: int, what: str) -> None:
        if used <= allowed or self.verdict or self._end is None:
            return
        self.verdict = f"used {to_text(used)} of {to_text(allowed)} {what}allowed and was ended"
        self._end()


class Watcher:
    """Runs while there is a meter, on one thread for all of them."""

    def __init__(self) -> None:
        self.pid: int = os.getpid()
        self._lock = threading.Lock()
        self._meters: list[Meter] = []
        self._bell = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, meter: Meter) -> None:
        """Measure it from now on."""
        with self._lock:
            self._meters.append(meter)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="clipper-meter", daemon=True)
                self._thread.start()
        self._bell.set()

    def remove(self, meter: Meter) -> None:
        """Do not look at it any more."""
        with self._lock, contextlib.suppress(ValueError):
            self._meters.remove(meter)
        self._bell.set()

    def _run(self) -> None:
        due = 0.0
        while True:
            self._bell.clear()
            with self._lock:
                meters = list(self._meters)
                if not meters:
                    self._thread = None
                    return
            now = time.monotonic()
            try:
                if now >= due:
                    due = now + MEASURE_SECONDS
                    _measure(meters)
                for meter in meters:
                    meter.guard()
            except Exception:  # of one moment: limits must be watched on
                _log.exception("resources could not be measured")
            is_guarded = any(meter.is_guarded for meter in meters)
            wait = GUARD_SECONDS if is_guarded else max(due - time.monotonic(), GUARD_SECONDS)
            self._bell.wait(wait)


def _measure(meters: list[Meter]) -> None:
    for meter in meters:
        meter.measure()
    on_gpu = [meter for meter in meters if meter.gpu]
    if on_gpu:
        inventory = read_inventory()
        for meter in on_gpu:
            meter.measure_gpu(inventory)


_lock = threading.Lock()
_made: list[Watcher] = []


def watcher() -> Watcher:
    """Return this process's watcher; a forked child gets one of its own."""
    with _lock:
        if not _made or _made[0].pid != os.getpid():
            _made[:] = [Watcher()]
        return _made[0]
