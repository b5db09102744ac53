"""An engine's administration: a local Unix socket, off the way of queries."""

import contextlib
import logging
import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from clipper.errors import ClipperError

from .commands import CHANGING, Commands
from .host import Host
from .messages import MessageError, receive, send
from .sockets import listen, peer_of, take

if TYPE_CHECKING:
    from clipper.engine import Engine

_log = logging.getLogger("clipper")

#: Connections at a time; one more is told so and closed.
MOST_CONNECTIONS = 64
#: Seconds that a connection may be silent between commands, or not read its answer.
SILENCE_SECONDS = 300.0
_SEND_SECONDS = 30.0


class AdminServer:
    """Listens on a Unix socket for commands of the same user and root. Made by ``open_admin``.

    Parameters
    ----------
    engine : Engine
    path : path
        Of the socket. Beside it lies ``path.lock``, held as long as the server lives.
    host : Host, optional
        Who the engine runs for; a program that embeds it, if not given.

    Raises
    ------
    AlreadyExistsError
        If another engine listens there.
    OSError
        If the socket cannot be made.

    Notes
    -----
    One thread accepts, and one for each connection runs its commands one after another, so that a
    deploy that takes minutes holds up nobody else.
    """

    def __init__(
        self, engine: "Engine", path: str | os.PathLike[str], host: Host | None = None
    ) -> None:
        self.path: Path = Path(path)
        self.host: Host = host or Host()
        self._pid = os.getpid()
        self._user = os.geteuid()
        self._commands = Commands(weakref.ref(engine), self.host)
        self._connections: dict[socket.socket, bool] = {}  # and whether a command runs
        self._lock = threading.Lock()
        self._closed = False
        self._claim = take(self.path)
        try:
            self._listener = listen(self.path)
            self._bell, self._ring = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except BaseException:
            os.close(self._claim)
            raise
        self._thread = threading.Thread(target=self._accept, name="clipper-admin", daemon=True)
        self._thread.start()
        weakref.finalize(engine, self.close)

    def close(self, *, timeout: float = 1.0) -> None:
        """Hear no more commands; those that run have ``timeout`` seconds to be answered."""
        with self._lock:
            if self._closed or os.getpid() != self._pid:
                return
            self._closed = True
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.write(self._ring, b"!")
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        until = time.monotonic() + timeout
        while any(list(self._connections.values())) and time.monotonic() < until:
            time.sleep(0.002)
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        os.close(self._claim)

    # ---- the threads --------------------------------------------------------------------------

    def _accept(self) -> None:
        with self._listener:
            poll = select.poll()
            poll.register(self._listener, select.POLLIN)
            poll.register(self._bell, select.POLLIN)
            while self._bell not in [descriptor for descriptor, _ in poll.poll()]:
                try:
                    connection, _ = self._listener.accept()
                except OSError as error:  # out of descriptors, say
                    _log.warning("a command was not heard: %s", error)
                    time.sleep(0.1)
                    continue
                self._receive_from(connection)
        os.close(self._bell)
        os.close(self._ring)

    def _receive_from(self, connection: socket.socket) -> None:
        pid, uid = peer_of(connection)
        refusal = None
        if uid not in (self._user, 0):
            refusal = f"this engine takes commands of user {self._user} and of root only"
            _log.warning("a command of process %d of user %d was refused", pid, uid)
        with self._lock:
            if len(self._connections) >= MOST_CONNECTIONS:
                refusal = f"{MOST_CONNECTIONS} connections are open already: try again later"
            if refusal is None:
                self._connections[connection] = False
        if refusal is not None:
            with connection, contextlib.suppress(OSError):
                connection.settimeout(0.1)
                send(connection, _failure(PermissionError(refusal)))
            return
        threading.Thread(
            target=self._serve, args=(connection,), name="clipper-admin-command", daemon=True
        ).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            while not self._closed and self._serve_one(connection):
                pass
        except (OSError, TimeoutError):
            pass  # it is gone, or silent: nobody to tell
        except MessageError as error:
            # What follows has no beginning any more.
            with contextlib.suppress(OSError):
                send(connection, _failure(error))
        finally:
            with self._lock:
                del self._connections[connection]
            connection.close()

    def _serve_one(self, connection: socket.socket) -> bool:
        request = receive(connection, SILENCE_SECONDS)
        if request is None:
            return False
        self._connections[connection] = True
        try:
            connection.settimeout(_SEND_SECONDS)
            self._answer(connection, request)
        finally:
            self._connections[connection] = False
        return True

    def _answer(self, connection: socket.socket, request: dict[str, Any]) -> None:
        name, given = request.get("do"), request.get("with", {})
        is_query = name == "predict"
        try:
            with self.host.query() if is_query else contextlib.nullcontext():
                value = self._commands.run(name, given)
                if _is_followed(value):
                    self._send_parts(connection, value)
                    value = None
                send(connection, {"value": value})
            if name in CHANGING:
                _log.info("command %s: %s", name, value)
        except Exception as error:
            if not isinstance(error, (ClipperError, ValueError, TypeError, LookupError, OSError)):
                _log.exception("command %r failed", name)
            send(connection, _failure(error))

    def _send_parts(self, connection: socket.socket, parts: Iterator[list[Any]]) -> None:
        for part in parts:
            for one in part:
                send(connection, {"part": one})
            if self._closed or _is_gone(connection):
                return


def _is_followed(value: Any) -> TypeGuard[Iterator[list[Any]]]:
    return isinstance(value, Iterator)


def _is_gone(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    try:
        return bool(poll.poll(0)) and not connection.recv(1, socket.MSG_PEEK)
    except OSError:
        return True


def _failure(error: Exception) -> dict[str, Any]:
    text = str(error)
    if isinstance(error, KeyError) and not isinstance(error, ClipperError):
        text = f"there is no {text}"
    return {"error": {"type": type(error).__name__, "text": text or type(error).__name__}}
