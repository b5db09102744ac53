"""Logging that a service can live with: what may happen per query is not logged per query."""

import logging
import time
from collections.abc import Callable


class SeldomLog:
    """Logs exceptions of one kind, once a period at most, and how many it kept back since.

    Parameters
    ----------
    logger : Logger
    period : float, default 1
        Seconds.
    clock : callable, optional
        Monotonic, in seconds.

    Notes
    -----
    Threads that log at the same moment may each get their record through: the bound is on what a
    fault does over time.
    """

    def __init__(
        self,
        logger: logging.Logger,
        period: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._period = period
        self._clock = clock
        self._next = -float("inf")
        self._kept_back = 0

    def exception(self, message: str, *arguments: object) -> None:
        """Log the exception that is being handled, or keep it back."""
        now = self._clock()
        if now < self._next:
            self._kept_back += 1
            return
        self._next = now + self._period
        kept_back, self._kept_back = self._kept_back, 0
        more = f" ({kept_back} more like this since the last)" if kept_back else ""
        self._logger.exception(message + more, *arguments)
