"""Who an engine runs for: its state, who may still ask it, and how it is ended."""

import contextlib
import threading
from collections.abc import Generator
from typing import Literal

from clipper.errors import ClipperError, EngineClosedError

State = Literal["starting", "ready", "reloading", "draining", "ended"]


class Host:
    """An engine embedded in a program, which ends it itself.

    Attributes
    ----------
    answered : int
        Queries that came by way of the socket and were answered.
    """

    def __init__(self, state: State = "ready") -> None:
        self.state: State = state
        self.answered: int = 0
        self._inside = 0
        self._lock = threading.Lock()

    @property
    def is_ready(self) -> bool:
        """Whether the engine answers queries."""
        return self.state in ("ready", "reloading")

    def stop(self) -> None:
        """Refuse: whoever embeds the engine ends it."""
        raise ClipperError("this engine is embedded in another program: end that instead")

    @contextlib.contextmanager
    def query(self) -> Generator[None, None, None]:
        """Accept a query until it is answered, and the answer sent.

        Raises
        ------
        EngineClosedError
            If no more are accepted.
        """
        with self._lock:
            if self.state in ("draining", "ended"):
                raise EngineClosedError("this engine is ending and takes no new queries")
            self._inside += 1
        answered = 0
        try:
            yield
            answered = 1
        finally:
            with self._lock:  # both at once: who sees no query left sees all that were answered
                self._inside -= 1
                self.answered += answered

    @property
    def open_queries(self) -> int:
        """How many were accepted whose answers are not sent yet."""
        return self._inside

    def refuse_queries(self) -> None:
        """Accept no new queries from now on; those that were accepted go on."""
        with self._lock:
            self.state = "draining"
