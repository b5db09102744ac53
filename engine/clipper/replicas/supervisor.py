"""The one thread that starts worker processes, and keeps what they print.

A worker asks the kernel to be killed when the thread that started it ends: so this one is
permanent, and ends with the process only. Workers are started by exec, never by a bare fork.
"""

import collections
import contextlib
import logging
import os
import queue
import selectors
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_log = logging.getLogger("clipper")

_LINES_KEPT = 200
_LONGEST_LINE = 1000


class Output:
    """The last lines that a worker printed; bounded."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lines: collections.deque[str] = collections.deque(maxlen=_LINES_KEPT)
        self._taken = 0  # lines since the beginning
        self._lock = threading.Lock()
        self._rest = b""
        self._ended = threading.Event()

    def take(self, data: bytes) -> None:
        """Add what was read from the pipe; nothing: it has ended."""
        pieces = (self._rest + data).split(b"\n")
        self._rest = pieces.pop()
        if not data or len(self._rest) > _LONGEST_LINE:
            pieces.append(self._rest)
            self._rest = b""
        for piece in pieces:
            line = piece[:_LONGEST_LINE].decode("utf-8", "replace").rstrip()
            if line:
                with self._lock:
                    self._lines.append(line)
                    self._taken += 1
                _log.debug("%s: %s", self._name, line)
        if not data:
            self._ended.set()

    def tail(self, lines: int = 10, wait: float = 0.0) -> str:
        """Return the last lines. ``wait``: for so many seconds at most for the output's end."""
        self._ended.wait(wait)
        return "\n".join(self.since(0)[0][-lines:])

    def since(self, place: int) -> tuple[list[str], int]:
        """Return the lines that came after the first ``place`` and are kept, and the next place."""
        with self._lock:
            new = min(self._taken - place, len(self._lines))
            return list(self._lines)[len(self._lines) - new :], self._taken


@dataclass(slots=True)
class _Order:
    arguments: Sequence[str]
    keep: Sequence[int]
    env: Mapping[str, str]
    output: Output
    done: threading.Event = field(default_factory=threading.Event)
    process: subprocess.Popen[bytes] | None = None
    error: BaseException | None = None


class Supervisor:
    """Starts processes and reads their output, on a thread of its own."""

    def __init__(self) -> None:
        self.pid: int = os.getpid()
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._bell, self._ring = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell, selectors.EVENT_READ)
        threading.Thread(target=self._run, name="clipper-supervisor", daemon=True).start()

    def spawn(
        self, arguments: Sequence[str], *, keep: Sequence[int], env: Mapping[str, str], name: str
    ) -> tuple[subprocess.Popen[bytes], Output]:
        """Start a process whose output is kept. ``keep``: descriptors that it inherits.

        Raises
        ------
        OSError
            If there is no such program, or no process to be had.
        """
        order = _Order(arguments, keep, env, Output(name))
        self._orders.put(order)
        os.write(self._ring, b"!")
        order.done.wait()
        if order.error is not None:
            raise order.error
        assert order.process is not None
        return order.process, order.output

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._bell, 4096)
                    self._start_all()
                else:
                    self._read(key.fd, key.data)

    def _start_all(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                order = self._orders.get_nowait()
                try:
                    self._start(order)
                except BaseException as error:
                    order.error = error
                order.done.set()

    def _start(self, order: _Order) -> None:
        reads, writes = os.pipe2(os.O_CLOEXEC)
        try:
            # A session of its own: Ctrl-C in a terminal is for the engine's process.
            order.process = subprocess.Popen(
                order.arguments, stdin=subprocess.DEVNULL, stdout=writes, stderr=writes,
                pass_fds=tuple(order.keep), env=dict(order.env), start_new_session=True,
            )  # fmt: skip
        except BaseException:
            os.close(reads)
            raise
        finally:
            os.close(writes)
        os.set_blocking(reads, False)
        self._selector.register(reads, selectors.EVENT_READ, order.output)

    def _read(self, descriptor: int, output: Output) -> None:
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return
        output.take(data)
        if not data:
            self._selector.unregister(descriptor)
            os.close(descriptor)


_lock = threading.Lock()
_made: list[Supervisor] = []


def supervisor() -> Supervisor:
    """Return this process's supervisor; a forked child gets one of its own."""
    with _lock:
        if not _made or _made[0].pid != os.getpid():
            _made[:] = [Supervisor()]
        return _made[0]
