"""Memory limits by control groups, version 2 or 1, beneath the engine's own group."""

import contextlib
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from clipper.sizes import to_text

_PREFIX = "clipper-"
_STALE_SECONDS = 60.0
_numbers = itertools.count()


class NoGroup(Exception):
    """No group can be made here; the text says why."""


@dataclass(frozen=True, slots=True)
class _Files:
    """What the files of a version are called."""

    version: int
    limit: str
    swap: str  # v1: of memory and swap together
    usage: str
    peak: str
    events: str


_VERSION_1 = _Files(1, "memory.limit_in_bytes", "memory.memsw.limit_in_bytes",
                    "memory.usage_in_bytes", "memory.max_usage_in_bytes",
                    "memory.oom_control")  # fmt: skip
_VERSION_2 = _Files(2, "memory.max", "memory.swap.max", "memory.current", "memory.peak",
                    "memory.events")  # fmt: skip


class MemoryGroup:
    """One worker's control group: made before the worker starts, removed when it has ended."""

    def __init__(self, folder: Path, files: _Files, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._files = files

    @classmethod
    def make(cls, limit: int, proc: Path = Path("/proc/self")) -> Self:
        """Make a group that may have so many bytes.

        Parameters
        ----------
        limit : int
            Bytes, swap included.
        proc : path
            Where the process's ``cgroup`` and ``mountinfo`` are.

        Raises
        ------
        NoGroup
            If the system has none that may be written.
        """
        parent, files = _parent(proc)
        _sweep(parent)
        folder = parent / f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
        try:
            folder.mkdir()
        except OSError as error:
            raise NoGroup(f"{parent}: {error.strerror}") from None
        group = cls(folder, files, limit)
        try:
            group._set(limit)
        except OSError as error:
            group.remove()
            raise NoGroup(f"{folder / files.limit}: {error.strerror}") from None
        return group

    @property
    def name(self) -> str:
        """What enforces the limit, to show."""
        return f"cgroup v{self._files.version}"

    @property
    def entrance(self) -> Path:
        """The file that a process writes its id to, to be in it."""
        return self.folder / "cgroup.procs"

    @property
    def usage(self) -> int:
        """Bytes that it has now; 0 if it is gone."""
        return self._number(self._files.usage)

    @property
    def kills(self) -> int:
        """How many of its processes the kernel has ended, for they had too much."""
        with contextlib.suppress(OSError, ValueError):
            for line in (self.folder / self._files.events).read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
        return 0

    def verdict(self) -> str:
        """Say that it was too much, if it was; else nothing."""
        if self.kills == 0:
            return ""
        # The kernel ends a process when the limit is reached, so the peak is never above it.
        used = max(self._number(self._files.peak), self.usage) or self.limit
        return (
            f"used {to_text(used)} of {to_text(self.limit)} allowed, wanted more and was ended "
            f"({self.name})"
        )

    def remove(self) -> None:
        """Remove it. What is still in it is ended first."""
        for _ in range(100):
            try:
                self.folder.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                self._kill_all()
                time.sleep(0.005)

    def _set(self, limit: int) -> None:
        (self.folder / self._files.limit).write_text(str(limit))
        # Without an account of swap, or on a machine without swap, there is nothing to limit.
        swap = limit if self._files.version == 1 else 0
        for name, value in ((self._files.swap, swap), ("memory.oom.group", 1)):
            if (self.folder / name).exists():
                with contextlib.suppress(OSError):
                    (self.folder / name).write_text(str(value))

    def _number(self, name: str) -> int:
        try:
            return int((self.folder / name).read_text())
        except (OSError, ValueError):
            return 0

    def _kill_all(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for pid in self.entrance.read_text().split():
                os.kill(int(pid), 9)


def _parent(proc: Path) -> tuple[Path, _Files]:
    """Find the group beneath which ours are made."""
    problems: list[str] = []
    try:
        groups = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError as error:
        raise NoGroup(f"there are no control groups: {error}") from None
    for number, controllers, path in (line.split(":", 2) for line in groups):
        if "memory" in controllers.split(","):
            own = _folder(mounts, "cgroup", path)
            if own is not None and os.access(own, os.W_OK):
                return own, _VERSION_1
            problems.append(f"{own or 'its group'} cannot be written (v1)")
        elif number == "0":
            own = _folder(mounts, "cgroup2", path)
            found = None if own is None else _delegated(own)
            if found is not None:
                return found, _VERSION_2
            problems.append("neither its own group nor the one above hands on memory (v2)")
    raise NoGroup("; ".join(problems) or "no control group accounts for memory")


def _folder(mounts: list[str], kind: str, path: str) -> Path | None:
    """Return where a group is mounted."""
    for line in mounts:
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if rest[0] != kind or (kind == "cgroup" and "memory" not in rest[2].split(",")):
            continue
        root, mounted = fields[3], fields[4]
        if root != "/":  # in a container: its own group may be shown as the root
            path = path.removeprefix(root)
        folder = Path(mounted, path.lstrip("/"))
        return folder if folder.is_dir() else Path(mounted)
    return None


def _delegated(own: Path) -> Path | None:
    """Return the group of version 2 whose children can have limits, if one can be written.

    A group that has processes cannot hand controllers on to its children, except the root. So where
    the engine's own cannot, its neighbours' parent is tried: systemd hands over such a pair for
    ``Delegate=yes`` with ``DelegateSubgroup=``.
    """
    control = own / "cgroup.subtree_control"
    with contextlib.suppress(OSError):
        if "memory" not in control.read_text().split():
            control.write_text("+memory")
    for folder in (own, own.parent):
        with contextlib.suppress(OSError):
            hands_on = "memory" in (folder / "cgroup.subtree_control").read_text().split()
            if hands_on and os.access(folder, os.W_OK):
                return folder
    return None


def _sweep(parent: Path) -> None:
    """Remove what engines that were killed have left; a group in use cannot be removed."""
    for folder in parent.glob(f"{_PREFIX}*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            is_old = time.time() - folder.stat().st_mtime > _STALE_SECONDS
            if is_old and not Path("/proc", pid).exists():
                folder.rmdir()
