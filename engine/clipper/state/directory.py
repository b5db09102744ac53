"""The directory in which an engine keeps its state, and nobody else at the same time."""

import fcntl
import os
import time
import weakref
from pathlib import Path

from clipper.errors import DataDirectoryInUseError, StateError

_LOCK = "lock"
_DAMAGED = "damaged"
_held: "weakref.WeakSet[DataDirectory]" = weakref.WeakSet()


class DataDirectory:
    """A directory that is this engine's until it is closed, or its process ends.

    Parameters
    ----------
    path : path
        Made if it is not there.

    Raises
    ------
    DataDirectoryInUseError
        If another engine has it, in whatever process.
    StateError
        If it cannot be made or written, with the reason.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path).absolute()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The lock goes with the last copy of the descriptor: see _let_go_in_child.
            self._lock: int | None = os.open(
                self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise StateError(
                f"cannot keep state in {os.fspath(path)!r}: {error.strerror}: give data= a "
                "directory that can be written, or leave it out to keep everything in memory"
            ) from error
        try:
            self._take_lock(self._lock)
        except BaseException:
            self.close()
            raise
        _held.add(self)

    def _take_lock(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            pid = int(text) if text.isdigit() else None
            raise DataDirectoryInUseError(
                f"the data directory {str(self.path)!r} is in use by an engine of process "
                f"{text or '(unknown)'}: close that engine, or give each engine a directory of "
                "its own",
                pid,
            ) from None
        except OSError as error:
            raise StateError(f"cannot lock {str(self.path)!r}: {error.strerror}") from error
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
        except OSError as error:
            raise StateError(
                f"cannot write in {str(self.path)!r}: {error.strerror}: make room, or give data= "
                "another directory"
            ) from error

    def file(self, name: str) -> Path:
        """Return the path of a file in it."""
        return self.path / name

    def set_aside(self, names: list[str]) -> Path:
        """Move damaged files out of the way, together; returns where they are now.

        Raises
        ------
        StateError
            If they cannot be moved.
        """
        stamp = time.strftime("%Y%m%d-%H%M%S")
        try:
            number = 0
            while (to := self.path / _DAMAGED / f"{stamp}-{number}").exists():
                number += 1
            to.mkdir(parents=True)
            for name in names:
                if (self.path / name).exists():
                    (self.path / name).rename(to / name)
        except OSError as error:
            raise StateError(
                f"files in {str(self.path)!r} are damaged, and cannot be set aside: "
                f"{error.strerror}"
            ) from error
        return to

    def close(self) -> None:
        """Let another engine have it."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)
        _held.discard(self)


def _let_go_in_child() -> None:
    # A forked child has copies of the descriptors: it would keep the lock when its parent dies.
    for directory in list(_held):
        directory.close()


os.register_at_fork(after_in_child=_let_go_in_child)
