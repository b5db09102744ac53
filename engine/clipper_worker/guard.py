"""The first process of a worker that connects by itself, which ends it when the engine is gone.

The kernel ends a worker with the thread that started it, but in a container that is not the
engine's. A model may hang or hold the GIL, so no thread beside it can be relied on: the worker is
the child of a process that does nothing else. As the first process of a container, the guard takes
all others with it when it ends, and sees to children that the model has orphaned.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from typing import Any


def guard(connection: socket.socket) -> int | None:
    """Split in two. Returns None in the worker; its exit status in the guard, at the end.

    Parameters
    ----------
    connection : socket
        To the engine. The guard reads nothing from it.
    """
    child = os.fork()
    return None if child == 0 else _watch(connection, child)


def _watch(connection: socket.socket, child: int) -> int:
    reads, writes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writes)
    # Process 1 of a container is sent only what it has a handler for.
    signal.signal(signal.SIGCHLD, _do_nothing)
    signal.signal(signal.SIGTERM, _end)
    poll = select.poll()
    poll.register(reads, select.POLLIN)
    poll.register(connection, 0)  # hanging up is told unasked
    while True:
        # Before the first wait, too: the child may have ended before there was a handler.
        status = _reap(child)
        if status is not None:
            return status
        for descriptor, _ in poll.poll():
            if descriptor != reads:
                os.kill(child, signal.SIGKILL)
                return 1
            os.read(reads, 4096)


def _reap(child: int) -> int | None:
    """Bury whoever has died. Returns the child's exit status, as shells put it, if it has."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else 128 - code


def _do_nothing(*_: Any) -> None:
    pass


def _end(*_: Any) -> None:
    os._exit(128 + signal.SIGTERM)
