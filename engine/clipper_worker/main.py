"""A worker from its start to its end: tie to the engine, load the model, serve."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import mmap
import os
import platform
import signal
import socket
import sys
import traceback
from typing import Any

from . import protocol
from .guard import guard
from .protocol import Failure, Load, Loaded, Message, ProtocolError, receive, send

_PR_SET_PDEATHSIG = 1


class Left(Exception):
    """The engine has closed the connection."""


def main(arguments: list[str]) -> int:
    """Serve one engine; returns the exit status."""
    options = _read(arguments)
    if options.parent:
        _die_with(options.parent)
    # What the engine gave us is no business of processes that the model starts.
    connection = _connect(options)
    if options.connect:
        guardian = os.getpid()
        status = guard(connection)
        if status is not None:
            return status
        _die_with(guardian)
    worker = Worker(connection)
    try:
        worker.run()
    except Left:
        return 0
    except Exception as error:
        worker.report(error)
        return 1
    return 0


def _read(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="clipper_worker", description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--fd", type=int, help="an inherited socket")
    where.add_argument("--connect", help="the path of a Unix socket of kind SOCK_SEQPACKET")
    parser.add_argument("--parent", type=int, default=0, help="the engine's process: end with it")
    return parser.parse_args(arguments)


def _die_with(parent: int) -> None:
    """Let the kernel end this process when the thread that started it is gone."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def _connect(options: argparse.Namespace) -> socket.socket:
    if options.fd is not None:
        connection = socket.socket(fileno=options.fd)
        connection.set_inheritable(False)
        return connection
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(options.connect)
    return connection


class Worker:
    """One engine's worker; its steps in their order."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._step = "start"

    def run(self) -> None:
        """Do all of it. Raises Left when the engine closes the connection."""
        send(self._connection, protocol.HELLO, protocol.pack_hello(_runtime()))
        call = self._load()
        self._step = "mapping"
        message = self._expect(protocol.MAP)
        from .serving import Session  # noqa: PLC0415 - needs NumPy

        session = Session(protocol.unpack_map(message.payload), message.descriptors, call)
        send(self._connection, protocol.READY)
        # What was loaded lives as long as we do: no collection need look at it again.
        gc.collect()
        gc.freeze()
        self._step = "serving"
        session.serve()

    def report(self, error: Exception) -> None:
        """Say why the worker ends, to the engine and to whoever reads its output."""
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}"
        if type(error).__name__ == "ModelFailure":
            text = str(error)
        failure = Failure(self._step, text, traceback.format_exc())
        with contextlib.suppress(OSError):  # nobody listens
            send(self._connection, protocol.FAILED, protocol.pack_failure(failure))

    def _expect(self, kind: int) -> Message:
        message = receive(self._connection)
        if message is None:
            raise Left
        if message.kind != kind:
            raise ProtocolError(f"got a message of kind {message.kind}, expected {kind}")
        return message

    def _load(self) -> Any:
        message = self._expect(protocol.LOAD)
        load = protocol.unpack_load(message.payload)
        sys.path += [path for path in load.paths if path not in sys.path]
        blobs = [read_memory(fd) for fd in message.descriptors]
        self._step = "loading"
        _need_numpy()
        from .models import load_model  # noqa: PLC0415

        found = load_model(load, blobs.pop(0) if load.kind == "pickle" else b"")
        example = blobs.pop(0) if load.has_example else None
        self._send_loaded(load, found, example)
        return found.call

    def _send_loaded(self, load: Load, found: Any, example: bytes | None) -> None:
        """Run the model once, if there is a row to run, and say what it takes and returns."""
        from .rehearsal import pack_row, run_once  # noqa: PLC0415

        input = load.input or found.input
        output = load.output or found.output
        own = None
        if input is not None and example is None and found.example is not None:
            own = example = pack_row(input, found.example)
        if input is not None and example is not None:
            output = run_once(found.call, input, output, example)
        descriptors = [] if own is None else [write_memory(own)]
        loaded = protocol.pack_loaded(Loaded(input, output, own is not None))
        send(self._connection, protocol.LOADED, loaded, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _runtime() -> str:
    version = f"{platform.python_implementation()} {platform.python_version()}"
    try:
        import numpy  # noqa: PLC0415

        return f"{version}, NumPy {numpy.__version__}"
    except ImportError:
        return f"{version}, without NumPy"


def _need_numpy() -> None:
    try:
        import numpy  # noqa: F401, PLC0415
    except ImportError as error:
        from .models import ModelFailure  # noqa: PLC0415

        raise ModelFailure(
            f"the environment of {sys.executable} has no NumPy that can be imported ({error}), the "
            "only thing that a worker needs: install it there, 'python -m pip install numpy'"
        ) from error


def read_memory(descriptor: int) -> bytes:
    """Return what a memfd holds, and close it."""
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        if size == 0:
            return b""
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as memory:
            return memory[:]


def write_memory(content: bytes) -> int:
    """Return a memfd that holds this."""
    descriptor = os.memfd_create("clipper")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    return descriptor
