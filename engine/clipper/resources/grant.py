"""What one replica was given, until it gives it back."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import clipper_worker
from clipper.sizes import to_text

from .cgroups import MemoryGroup, NoGroup
from .containers import container_flags
from .inventory import Gpu
from .nvml import read_inventory
from .request import Resources
from .threads import thread_environment
from .watching import Meter, watcher

_log = logging.getLogger("clipper")

_LAUNCHER = Path(clipper_worker.__file__).with_name("launch.py")


@dataclass(slots=True, eq=False)
class Grant:
    """One replica's resources, as placement chose them.

    Attributes
    ----------
    replica : str
        Whose they are, to show.
    asked : Resources
    device : str
        What its adapter is told.
    cpus : tuple of int or None
    gpu : Gpu or None
        As it was when it was chosen.
    hides_gpus : bool
        Whether its worker sees no GPU.
    pid : int or None
        Of the process that uses the GPU, once the model is loaded.
    """

    replica: str
    asked: Resources = field(default_factory=Resources)
    device: str = "auto"
    cpus: tuple[int, ...] | None = None
    gpu: Gpu | None = None
    hides_gpus: bool = False
    pid: int | None = None
    enforced_by: str = ""  # the memory limit
    _meter: Meter | None = None

    @property
    def threads(self) -> int | None:
        """Threads of one batch."""
        return self.asked.thread_count

    @property
    def gpu_memory(self) -> int | None:
        """Bytes of its GPU's memory."""
        return None if self.gpu is None else self.asked.gpu_memory_bytes

    def environment(self) -> dict[str, str]:
        """Return the variables that its worker starts with."""
        found = thread_environment(self.threads, self.gpu_memory)
        if self.gpu is not None:
            found["CUDA_VISIBLE_DEVICES"] = self.gpu.uuid
        elif self.hides_gpus:
            found["CUDA_VISIBLE_DEVICES"] = ""
        return found

    def container_flags(self) -> list[str]:
        """Return the same as options of ``podman run``."""
        return container_flags(
            cpus=self.cpus, threads=self.threads, memory=self.asked.memory_bytes,
            gpu=None if self.gpu is None else self.gpu.uuid, gpu_memory=self.gpu_memory,
        )  # fmt: skip

    def enter_thread(self, tid: int) -> None:
        """Keep the calling thread, which runs the model, to the CPUs; measure it."""
        if self.cpus is not None:
            os.sched_setaffinity(0, self.cpus)
        if self.asked.is_any or self.gpu is not None:
            self._meter = Meter(tid=tid, gpu="" if self.gpu is None else self.gpu.uuid)
            watcher().add(self._meter)

    def leave_thread(self) -> None:
        """Do not measure the thread any more."""
        if self._meter is not None:
            watcher().remove(self._meter)

    def note_loaded(self, pid: int) -> None:
        """Count what this process uses of the GPU as this replica's from now on."""
        self.pid = pid

    def limit_worker(self) -> "WorkerLimits":
        """Prepare for one worker; those that follow it get limits of their own."""
        return WorkerLimits(self)

    def limit_container(self) -> "WorkerLimits":
        """Prepare for one worker whose container's runtime holds it to ``container_flags()``."""
        return WorkerLimits(self, by_container=True)

    def check_gpu_memory(self) -> str:
        """Return what is wrong with what the driver says the process uses; empty: nothing is."""
        if self.gpu is None or self.gpu_memory is None or self.pid is None:
            return ""
        used = [gpu.processes.get(self.pid, -1) for gpu in read_inventory().gpus
                if gpu.uuid == self.gpu.uuid]  # fmt: skip
        if self.pid == os.getpid() or not used or used[0] <= self.gpu_memory:
            return ""  # this process's GPU memory is not this replica's alone
        return (
            f"it uses {to_text(used[0])} of GPU {self.gpu.uuid} when it is warm, CUDA's own part "
            f"included, and gpu_memory allows {to_text(self.gpu_memory)}: allow more"
        )

    def describe(self) -> dict[str, Any]:
        """Return what was asked for and given, and what is used of it, as plain values."""
        return {
            "asked": self.asked.describe(),
            "device": self.device,
            "cpus": None if self.cpus is None else list(self.cpus),
            "threads": self.threads,
            "memory": self.asked.memory_bytes,
            "memory_by": self.enforced_by,
            "nice": self.asked.nice,
            "gpu": None if self.gpu is None else self.gpu.uuid,
            "gpu_name": None if self.gpu is None else self.gpu.name,
            "gpu_memory": self.gpu_memory,
            "used": None if self._meter is None else self._meter.read(),
        }

    def _watch(self, meter: Meter | None) -> None:
        if self._meter is not None:
            watcher().remove(self._meter)
        self._meter = meter
        if meter is not None:
            watcher().add(meter)


class WorkerLimits:
    """What holds one worker to its replica's resources, from before its start to after its end."""

    def __init__(self, grant: Grant, *, by_container: bool = False) -> None:
        self._grant = grant
        self._by_container = by_container
        self._group: MemoryGroup | None = None
        self._meter: Meter | None = None
        self._no_group = ""
        limit = grant.asked.memory_bytes
        if limit is not None and by_container:
            grant.enforced_by = "container"
        elif limit is not None:
            try:
                self._group = MemoryGroup.make(limit)
            except NoGroup as error:
                self._no_group = str(error)
                _log.info("%s: memory is watched, not limited by the kernel (%s)",
                          grant.replica, error)  # fmt: skip
            grant.enforced_by = "watchdog" if self._group is None else self._group.name

    def environment(self) -> dict[str, str]:
        """Return the variables that the worker starts with."""
        return self._grant.environment()

    def command(self, python: str, arguments: Sequence[str]) -> list[str]:
        """Return the command that starts it: through the launcher, where limits need that.

        Parameters
        ----------
        python : str
            An interpreter for the launcher.
        arguments : sequence of str
            The worker's own command.
        """
        options: list[str] = []
        if self._grant.cpus is not None:
            options += ["--cpus", ",".join(map(str, self._grant.cpus))]
        if self._grant.asked.nice is not None:
            options += ["--nice", str(self._grant.asked.nice)]
        if self._group is not None:
            options += ["--cgroup", str(self._group.entrance)]
        if not options:
            return list(arguments)
        return [python, "-I", "-S", str(_LAUNCHER), *options, "--", *arguments]

    def started(self, pid: int, end: Callable[[], None]) -> None:
        """Measure a worker that has started. ``end`` ends it, should it have too much."""
        grant = self._grant
        if self._by_container and grant.asked.nice is not None:
            # No runtime has an option for it, and the worker has one thread as yet.
            os.setpriority(os.PRIO_PROCESS, pid, grant.asked.nice)
        watches_memory = self._group is None and not self._by_container
        self._meter = Meter(
            pid=pid, gpu="" if grant.gpu is None else grant.gpu.uuid, end=end,
            memory=grant.asked.memory_bytes if watches_memory else None,
            gpu_memory=grant.gpu_memory,
        )  # fmt: skip
        grant._watch(self._meter)

    def verdict(self) -> str:
        """Say what the worker was ended for, if it had too much of something; else nothing."""
        if self._meter is not None and self._meter.verdict:
            return self._meter.verdict
        return "" if self._group is None else self._group.verdict()

    def release(self) -> None:
        """Remove what was made for a worker that has ended."""
        if self._meter is not None and self._grant._meter is self._meter:
            self._grant._watch(None)
        self._grant.pid = None
        if self._group is not None:
            self._group.remove()
