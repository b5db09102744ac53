"""One worker process: start it, agree with it on a model and on memory, end it."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import clipper_worker
from clipper._core.isolation import SLOTS, IsolatedReplica
from clipper.errors import DeployError
from clipper.resources.grant import WorkerLimits
from clipper_worker import protocol

from .isolation import Isolated, program_of
from .supervisor import Output, supervisor

ENTRY = Path(clipper_worker.__file__).with_name("__main__.py")
_GRACE_SECONDS = 1.0


class WorkerProcess:
    """Owns the process, its socket and its pidfd.

    Parameters
    ----------
    isolated : Isolated
    name : str
        How it is called in logs.
    until : float
        Of ``time.monotonic``: by when it must be ready.
    limits : WorkerLimits
        What it may use.

    Raises
    ------
    DeployError
        If it cannot be started. So do the methods, where it fails, with its last words.
    """

    def __init__(self, isolated: Isolated, name: str, until: float, limits: WorkerLimits) -> None:
        self.name = name
        self._limits = limits
        self.runtime: str = ""
        self._until = until
        self._lock = threading.Lock()  # of the pidfd, which is closed at the end
        self._program = program_of(isolated)
        self.pidfd: int = -1
        self._start(isolated)

    def _start(self, isolated: Isolated) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        try:
            self._process, self._output = _spawn(isolated, theirs, self.name, self._limits)
            self.pidfd = os.pidfd_open(self._process.pid)
            self._limits.started(self._process.pid, self.kill)
        except BaseException:
            ours.close()
            self._limits.release()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def output(self) -> Output:
        """What it printed last."""
        return self._output

    # ---- the agreement ----------------------------------------------------------------------

    def greet(self) -> str:
        """Hear who it is."""
        _, self.runtime = protocol.unpack_hello(self._expect(protocol.HELLO).payload)
        return self.runtime

    def load(self, load: protocol.Load, blobs: list[bytes]) -> tuple[protocol.Loaded, bytes | None]:
        """Let it load a model; returns what it says of it, and an example row if it gives one."""
        descriptors = [_memory_of(blob) for blob in blobs]
        try:
            self._send(protocol.LOAD, protocol.pack_load(load), descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        message = self._expect(protocol.LOADED)
        with self._watching_words():
            loaded = protocol.unpack_loaded(message.payload)
        example = None
        for descriptor in message.descriptors:
            example = _read(descriptor)
        if loaded.has_example and (example is None or loaded.input is None):
            raise self.failure("broke the protocol: it announced an example row and sent none")
        return loaded, example if loaded.has_example else None

    def map(self, link: IsolatedReplica, input: protocol.Rows, output: protocol.Rows) -> None:
        """Share the memory and wait until it is ready for batches."""
        text_at, text_bytes = link.text_place
        places = [protocol.Place(*place) for place in link.output_places]
        layout = protocol.Map(
            SLOTS, link.has_copies, link.segment_bytes, link.output_rows, places, text_at,
            text_bytes, input, output,
        )  # fmt: skip
        self._send(protocol.MAP, protocol.pack_map(layout), link.descriptors)
        self._expect(protocol.READY)

    def _send(self, kind: int, payload: bytes, descriptors: list[int]) -> None:
        try:
            protocol.send(self._socket, kind, payload, descriptors)
        except OSError:
            raise self.failure(self.ended()) from None

    def _expect(self, kind: int) -> protocol.Message:
        self._wait_for_message(
            "was not ready in time: the model's loading blocks, or takes longer than ready_timeout"
        )
        with self._watching_words():
            message = protocol.receive(self._socket)
            if message is None:
                raise self.failure(self.ended())
            if message.kind == protocol.FAILED:
                failure = protocol.unpack_failure(message.payload)
                raise DeployError(
                    f"{failure.error} (in the worker's {failure.step}, {self._program})"
                    f"{self._last_words(wait=1.0)}"  # it ends now
                )
            if message.kind != kind:
                raise protocol.ProtocolError(f"it sent a message of kind {message.kind}")
            return message

    def _wait_for_message(self, if_late: str) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self.pidfd, select.POLLIN)
        left = self._until - time.monotonic()
        ready = [descriptor for descriptor, _ in poll.poll(max(left, 0.0) * 1e3)]
        if not ready:
            raise self.failure(if_late)
        if self._socket.fileno() not in ready:
            raise self.failure(self.ended())

    @contextlib.contextmanager
    def _watching_words(self) -> Any:
        try:
            yield
        except (protocol.ProtocolError, OSError) as error:
            raise self.failure(f"broke the protocol: {error}") from None

    # ---- the end ------------------------------------------------------------------------------

    def kill(self) -> None:
        """End it now. Any thread."""
        with self._lock, contextlib.suppress(OSError):
            if self.pidfd >= 0:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def ended(self) -> str:
        """Say how the process ended; ends it if it has not by itself."""
        has_ended = self._wait_for_end(_GRACE_SECONDS)
        self.kill()
        status = self._reap()
        if too_much := self._limits.verdict():
            return too_much
        if not has_ended:
            return "closed its connection"
        if status >= 0:
            return f"ended with status {status}"
        with contextlib.suppress(ValueError):
            return f"was killed by signal {-status} ({signal.Signals(-status).name})"
        return f"was killed by signal {-status}"

    def failure(self, what: str) -> DeployError:
        """Make the error that says what it did, and what it printed last."""
        return DeployError(f"worker {self.pid} ({self._program}) {what}{self._last_words()}")

    def _last_words(self, wait: float = 0.0) -> str:
        """Return what it printed last. ``wait``: seconds at most for the end of it."""
        if self._process.returncode is not None:
            wait = 0.2
        tail = self._output.tail(wait=wait)
        return f"; the last that it printed:\n{tail}" if tail else ""

    def close(self, grace: float = 0.0) -> None:
        """Wait ``grace`` seconds for its end, then see to it; give its descriptors back."""
        self._wait_for_end(grace)
        self.kill()
        self._reap()
        self._limits.release()
        self._socket.close()
        with self._lock:
            if self.pidfd >= 0:
                os.close(self.pidfd)
                self.pidfd = -1

    def _wait_for_end(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1e3))

    def _reap(self) -> int:
        """Return the exit status. What the model has started goes with its worker."""
        if self._process.returncode is None:
            self._wait_for_end(60.0)
            # Not reaped yet, so nobody else can have its number.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()


def _spawn(
    isolated: Isolated, theirs: socket.socket, name: str, limits: WorkerLimits
) -> tuple[subprocess.Popen[bytes], Output]:
    python = os.fspath(isolated.python or sys.executable)
    program = isolated.command or [python, "-X", "faulthandler", str(ENTRY)]
    arguments = [*program, "--fd", str(theirs.fileno()), "--parent", str(os.getpid())]
    arguments = limits.command(sys.executable, arguments)
    env = {**os.environ, "PYTHONUNBUFFERED": "1", **limits.environment()}
    if isolated.python is not None:  # they would lead it to this interpreter's packages
        env.pop("PYTHONPATH", None)
        env.pop("PYTHONHOME", None)
    env.update(isolated.env)
    try:
        return supervisor().spawn(arguments, keep=[theirs.fileno()], env=env, name=name)
    except OSError as error:
        reason = error.strerror or error
        if isolated.command is not None:
            raise DeployError(
                f"cannot start the worker {program[0]!r} ({reason}): command takes the path of an "
                "executable file"
            ) from None
        raise DeployError(
            f"cannot start the interpreter {python!r} ({reason}): give Isolated the path of a "
            "Python, such as python='.venv/bin/python'"
        ) from None


def _memory_of(content: bytes) -> int:
    descriptor = os.memfd_create("clipper", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    return descriptor


def _read(descriptor: int) -> bytes:
    """Read at most so much of what a worker sent, and close it."""
    with open(descriptor, "rb") as file:
        file.seek(0)
        return file.read(1 << 30)
