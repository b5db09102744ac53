"""The Unix socket of an engine: made for one engine and one user, wherever its folder lies."""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Generator
from pathlib import Path

from clipper.errors import AlreadyExistsError

#: Bytes that the kernel has for a socket's path, its end included.
_LONGEST_PATH = 108
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_BACKLOG = 64


@contextlib.contextmanager
def short_path(path: Path) -> Generator[str, None, None]:
    """Give a path to a socket that the kernel takes: by way of its folder, where it is too long."""
    if len(os.fsencode(path)) < _LONGEST_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def take(path: Path) -> int:
    """Become the one engine that may listen there; returns a descriptor to be held as long.

    Raises
    ------
    AlreadyExistsError
        If another engine is.
    """
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise AlreadyExistsError(
            f"another engine listens at {path}: end it with 'clipper stop', or give this one "
            "another folder with --data"
        ) from None
    return lock


def listen(path: Path) -> socket.socket:
    """Listen at a path that was taken; what lies there is from an engine that has ended.

    Raises
    ------
    OSError
        If the socket cannot be made, or something else than a socket lies there.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(
                errno.EEXIST, "something lies there that is no socket: move it away", str(path)
            )
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Before it has a name, so that there is no moment at which others may connect.
        os.fchmod(listener.fileno(), 0o600)
        with short_path(path) as short:
            listener.bind(short)
        path.chmod(0o600)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def connect(path: Path) -> socket.socket:
    """Connect to an engine. Raises OSError where none listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(path) as short:
            connection.connect(short)
    except BaseException:
        connection.close()
        raise
    return connection


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Return the process and user ids of who has connected, as the kernel knows them."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(found)
    return pid, uid
