"""What a user asks for with ``resources=Resources(...)``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from clipper.sizes import to_bytes

from .containers import container_flags

_CPU_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_MOST_CPUS = 4096
_LEAST_MEMORY = 16 << 20  # bytes: less than an interpreter takes to start


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What each replica of a deployment may use. What is left out is not limited.

    Parameters
    ----------
    cpus : int, sequence of int or str, optional
        So many CPUs for each replica alone, of those that this process may use and no replica has;
        or these, which the replicas share: ``[0, 1]``, ``"0-3,8"``.
    threads : int, optional
        Threads of one batch, in OpenMP, MKL, OpenBLAS, PyTorch and ONNX Runtime; as many as it has
        CPUs if ``cpus`` is given. A replica in this process is told through its adapter.
    memory : int or str, optional
        Most bytes that a worker may have, its children included; one that has more is ended, and
        started again. Isolated replicas only.
    nice : int, optional
        From 0 to 19, or below 0 where the system allows that; larger gives way. Isolated replicas
        only.
    gpu : int or str, optional
        ``"auto"``, an index among the GPUs that this process may use, or a UUID, of a GPU or of a
        MIG instance; a UUID may be cut short. The same as ``device=``.
    gpu_memory : int or str, optional
        Most bytes of the GPU's memory for each replica. Placement packs by it.

    Raises
    ------
    TypeError, ValueError
        If a value cannot be meant, with what to give instead.

    Examples
    --------
    >>> Resources(cpus="0-2,5", memory="2GiB").cpu_set
    (0, 1, 2, 5)
    """

    cpus: int | str | Sequence[int] | None = None
    threads: int | None = None
    memory: int | str | None = None
    nice: int | None = None
    gpu: int | str | None = None
    gpu_memory: int | str | None = None

    def __post_init__(self) -> None:
        if self.cpus is not None and self.cpu_set is None:
            _check_integer("cpus", self.cpus, 1, _MOST_CPUS, "a number of CPUs, or a set as '0-3'")
        if self.threads is not None:
            _check_integer("threads", self.threads, 1, _MOST_CPUS, "1 or more")
        if self.nice is not None:
            _check_integer("nice", self.nice, -20, 19, "an integer from -20 to 19")
        if self.gpu is not None and not isinstance(self.gpu, str):
            _check_integer("gpu", self.gpu, 0, _MOST_CPUS, "an index, a UUID or 'auto'")
        if isinstance(self.gpu, str):
            gpu_of_device(self.gpu, "gpu")
        memory = self.memory_bytes
        if memory is not None and memory < _LEAST_MEMORY:
            raise ValueError(
                f"memory is {self.memory!r}: a worker takes more than that to start, give "
                f"'{_LEAST_MEMORY >> 20}MiB' or more"
            )
        _ = self.gpu_memory_bytes  # raises what to_bytes() raises

    @property
    def cpu_set(self) -> tuple[int, ...] | None:
        """The CPUs that were named; None if none, or a number of them, was asked for."""
        if self.cpus is None or isinstance(self.cpus, int):
            return None
        return _cpu_set(self.cpus)

    @property
    def thread_count(self) -> int | None:
        """Threads of one batch: as asked for, else one for each CPU."""
        if self.threads is not None or self.cpus is None:
            return self.threads
        named = self.cpu_set
        return len(named) if named is not None else self.cpus  # type: ignore[return-value] # pyright: ignore

    @property
    def memory_bytes(self) -> int | None:
        """``memory`` in bytes."""
        return None if self.memory is None else to_bytes(self.memory)

    @property
    def gpu_memory_bytes(self) -> int | None:
        """``gpu_memory`` in bytes."""
        return None if self.gpu_memory is None else to_bytes(self.gpu_memory)

    @property
    def is_any(self) -> bool:
        """Whether anything is asked for."""
        return any(getattr(self, field.name) is not None for field in fields(self))

    @property
    def are_the_threads_own(self) -> bool:
        """Whether a batch must run on the replica's own thread to keep within them."""
        asked = (self.cpus, self.threads, self.memory, self.gpu_memory)
        return any(value is not None for value in asked)

    def describe(self) -> dict[str, Any]:
        """Return what is asked for, as plain values."""
        asked = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.cpus is not None and not isinstance(self.cpus, (int, str)):
            asked["cpus"] = list(self.cpus)
        return {name: value for name, value in asked.items() if value is not None}

    def container_flags(self) -> list[str]:
        """Return the same request as options of ``podman run`` or ``docker run``.

        A number of CPUs becomes a share of their time, for only placement names CPUs; it also
        chooses the GPU, which is left out here.
        """
        number = self.cpus if isinstance(self.cpus, int) else None
        return container_flags(cpus=self.cpu_set, cpu_count=number, threads=self.thread_count,
                               memory=self.memory_bytes)  # fmt: skip


def to_resources(given: object) -> Resources:
    """Read ``resources=``. Raises TypeError if it is something else."""
    if given is None:
        return Resources()
    if isinstance(given, Resources):
        return given
    raise TypeError(
        f"resources is a {type(given).__name__}: give clipper.Resources(cpus=, threads=, memory=, "
        "nice=, gpu=, gpu_memory=)"
    )


def gpu_of_device(device: str, what: str = "device") -> int | str | None:
    """Read which GPU is meant: an index, a UUID, ``"auto"``; None for the CPU.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if device == "auto":
        return "auto"
    if device == "cpu" and what == "device":
        return None
    if device.upper().startswith(("GPU-", "MIG-")) and len(device) > 4:
        return device
    named = re.fullmatch(r"(?:cuda:)?(\d+)", device)
    if named is not None and (device.startswith("cuda:") or what == "gpu"):
        return int(named[1])
    takes = "'auto', 'cpu', 'cuda:<index>'" if what == "device" else "'auto', an index"
    raise ValueError(f"{what} is {device!r}: give {takes} or a UUID such as 'GPU-5fd4…'")


def _cpu_set(given: str | Sequence[int]) -> tuple[int, ...]:
    found: set[int] = set()
    try:
        if isinstance(given, str):
            for part in given.split(","):
                named = _CPU_RANGE.fullmatch(part.strip())
                if named is None:
                    raise ValueError
                first, last = int(named[1]), int(named[2] or named[1])
                if last < first or last >= _MOST_CPUS:
                    raise ValueError
                found.update(range(first, last + 1))
        else:
            for cpu in given:
                _check_integer("a CPU", cpu, 0, _MOST_CPUS - 1, "its number")
                found.add(cpu)
        if not found:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"cpus is {given!r}: give how many, or which, such as [0, 1] or '0-3,8'"
        ) from None
    return tuple(sorted(found))


def _check_integer(what: str, value: object, least: int, most: int, wanted: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{what} is {value!r}: give {wanted}")
