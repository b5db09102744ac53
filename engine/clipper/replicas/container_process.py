"""One worker process in a container: start it, hear from it, leave nothing of it."""

import contextlib
import itertools
import os
import secrets
import select
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Sequence

from clipper.errors import DeployError
from clipper.resources.grant import WorkerLimits

from .container import find_runtime, run_arguments
from .isolation import Isolated
from .supervisor import supervisor
from .worker_process import ENTRY, WorkerProcess

_SO_PEERPIDFD = 77  # since Linux 6.5; Python has no name for it
_REMOVAL_SECONDS = 10.0
_numbers = itertools.count(1)


class ContainerProcess(WorkerProcess):
    """Owns a container, its socket, and the pidfds of its first process and of who started it.

    The first process is known by its connection: the kernel says who is at the other end, in this
    process's numbers. Until then, that which starts the container stands for it.

    Parameters
    ----------
    isolated : Isolated
    name : str
    until : float
    limits : WorkerLimits
    files : sequence of str
        Absolute paths that the model needs.
    resource_flags : sequence of str
        Options of the container's runtime that limit it.
    """

    def __init__(
        self, isolated: Isolated, name: str, until: float, limits: WorkerLimits, *,
        files: Sequence[str] = (), resource_flags: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.container: str = f"clipper-{os.getpid()}-{next(_numbers)}-{secrets.token_hex(4)}"
        self._files = files
        self._resource_flags = resource_flags
        self._pid = 0
        self._has_connected = False
        self._is_killed = False
        super().__init__(isolated, name, until, limits)

    @property
    def pid(self) -> int:
        """The first process of the container; before it connects, the one that starts it."""
        return self._pid or self._process.pid

    # ---- the start ----------------------------------------------------------------------------

    def _start(self, isolated: Isolated) -> None:
        self._runtime = find_runtime(isolated)
        # Others may not even look into it; whoever the image's user is, may connect.
        self._folder = tempfile.mkdtemp(prefix="clipper-")
        try:
            mounted = os.path.join(self._folder, "engine")
            os.mkdir(mounted)
            os.chmod(mounted, 0o755)
            self._socket = _listening(os.path.join(mounted, "socket"))
            try:
                arguments = run_arguments(
                    isolated, self._runtime, self.container, socket_folder=mounted,
                    worker_folder=ENTRY.parent, files=self._files,
                    resource_flags=self._resource_flags,
                )  # fmt: skip
                self._process, self._output = supervisor().spawn(
                    arguments, keep=[], env=os.environ, name=self.name
                )
                self._client = os.pidfd_open(self._process.pid)
                self.pidfd = os.dup(self._client)
            except BaseException:
                self._socket.close()
                raise
        except BaseException as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise DeployError(f"cannot start a container: {error}") from None
            raise

    def greet(self) -> str:
        """Let it connect, and hear who it is."""
        connection = self._accept()
        self._socket.close()
        self._socket = connection
        self._has_connected = True
        # From here on nothing is left in the file system, however the engine ends.
        shutil.rmtree(self._folder, ignore_errors=True)
        self._pid, pidfd = _peer_of(connection)
        if pidfd >= 0:
            with self._lock:
                os.close(self.pidfd)
                self.pidfd: int = pidfd
        if self._pid:
            self._limits.started(self._pid, self.kill)
        if self._is_killed:
            self.kill()
        return super().greet()

    def _accept(self) -> socket.socket:
        self._wait_for_message(
            "has not connected in time: the container takes longer to start than ready_timeout, "
            "or its program is no worker"
        )
        try:
            return self._socket.accept()[0]
        except OSError as error:  # it was killed meanwhile
            raise self.failure(f"cannot be heard: {error}") from None

    # ---- the end ------------------------------------------------------------------------------

    def kill(self) -> None:
        """End it now. Any thread."""
        self._is_killed = True
        if self._has_connected:
            super().kill()
        # Whoever has not connected yet, cannot any more. And where we may not signal it, as under
        # another user's daemon, its guard sees this.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self, grace: float = 0.0) -> None:
        """Wait ``grace`` seconds for its end, then see to it and to all that is left."""
        super().close(grace)
        if self._client >= 0:
            os.close(self._client)
            self._client = -1
        shutil.rmtree(self._folder, ignore_errors=True)

    def _reap(self) -> int:
        """Return the exit status, as ``subprocess`` puts it.

        The runtime's command removes the container before it ends.
        """
        if not self._has_connected:
            self._remove()  # what is started there may wait for ever
        if not _has_ended(self._client, _REMOVAL_SECONDS):
            self._remove()
            if not _has_ended(self._client, _REMOVAL_SECONDS):
                self._process.kill()
        status = self._process.wait()
        return 128 - status if status > 128 else status

    def _remove(self) -> None:
        # Killed before, for podman's removal would wait ten seconds for an end of its own accord.
        for how in (["kill"], ["rm", "--force"]):
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(
                    [self._runtime, *how, self.container], check=False, capture_output=True,
                    stdin=subprocess.DEVNULL, timeout=_REMOVAL_SECONDS,
                )  # fmt: skip


def _listening(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(path)
        os.chmod(path, 0o666)
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    return listener


def _peer_of(connection: socket.socket) -> tuple[int, int]:
    """Return process id and pidfd of the other end; 0 and -1 if it cannot be seen from here."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid: int = struct.unpack("3i", credentials)[0]
    if pid <= 0:
        return 0, -1
    try:
        return pid, connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        with contextlib.suppress(OSError):
            return pid, os.pidfd_open(pid)
    return 0, -1


def _has_ended(pidfd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1e3))
