"""Giving commands to an engine's socket."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from clipper.errors import ClipperError

from .messages import receive, send
from .sockets import connect


class NotRunningError(ClipperError):
    """No engine listens where one was looked for."""

    status = 503


class CommandError(ClipperError):
    """The engine refused a command, or it failed; the text is the engine's.

    Attributes
    ----------
    kind : str
        The name of the engine's error, such as ``"ModelNotFoundError"``.
    """

    def __init__(self, kind: str, text: str) -> None:
        self.kind: str = kind
        super().__init__(text)


class AdminClient:
    """Gives commands to the engine that listens at a socket. One thread at a time.

    Parameters
    ----------
    path : path
        The engine's socket.
    timeout : float, optional
        Seconds to wait for an answer; for ever if not given, as a deploy may take long.

    Raises
    ------
    NotRunningError
        If none listens there.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout: float | None = None) -> None:
        self.path: Path = Path(path)
        self._timeout = timeout
        try:
            self._connection = connect(self.path)
        except PermissionError:
            raise NotRunningError(
                f"{self.path} is another user's: run the command as that user, or as root"
            ) from None
        except OSError as error:
            raise NotRunningError(
                f"no engine listens at {self.path} ({error.strerror}): start one with 'clipper "
                "serve clipper.toml', or name its folder with --data or CLIPPER_DATA"
            ) from None

    def call(self, command: str, **given: Any) -> Any:
        """Run a command and return what it says.

        Raises
        ------
        CommandError
            If the engine refuses it, or it fails.
        NotRunningError
            If the engine ends before it has answered.
        """
        return [value for _, value in self._run(command, given)][-1]

    def follow(self, command: str, **given: Any) -> Iterator[Any]:
        """Run a command that says things as they come; as ``call`` otherwise."""
        for is_end, value in self._run(command, given):
            if not is_end:
                yield value

    def _run(self, command: str, given: dict[str, Any]) -> Iterator[tuple[bool, Any]]:
        try:
            self._connection.settimeout(self._timeout)
            send(self._connection, {"do": command, "with": given})
            while True:
                answer = receive(self._connection, self._timeout)
                if answer is None:
                    raise ConnectionResetError
                if "error" in answer:
                    raise CommandError(answer["error"]["type"], answer["error"]["text"])
                is_end = "part" not in answer
                yield is_end, answer.get("value" if is_end else "part")
                if is_end:
                    return
        except TimeoutError:
            raise NotRunningError(
                f"the engine at {self.path} has not answered within {self._timeout:g} s"
            ) from None
        except OSError:
            raise NotRunningError(f"the engine at {self.path} ended before it answered") from None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
