"""How a model's rows become batches: the strategies one can choose from."""

from dataclasses import dataclass
from typing import Any

_MOST_ROWS = 65_536


_MOST_WAITING = 1 << 24


def check_max_queue(requests: int) -> int:
    """Return the bound, or raise with what to give instead."""
    if not isinstance(requests, int) or not 1 <= requests <= _MOST_WAITING:
        raise ValueError(f"max_queue is {requests!r}: give an integer from 1 to {_MOST_WAITING}")
    return requests


def _check_rows(rows: int, what: str) -> None:
    if not isinstance(rows, int) or not 1 <= rows <= _MOST_ROWS:
        raise ValueError(f"{what} is {rows!r}: give an integer from 1 to {_MOST_ROWS}")


@dataclass(frozen=True, slots=True)
class Fixed:
    """Runs whatever waits at once, at most ``rows`` rows at a time; knows no deadlines.

    Parameters
    ----------
    rows : int
        Largest batch, 1 to 65,536.
    """

    rows: int

    def __post_init__(self) -> None:
        _check_rows(self.rows, "Fixed(rows)")

    def to_core(self) -> tuple[str, dict[str, Any]]:
        """Return the strategy's name and parameters for the core."""
        return "fixed", {"rows": self.rows}


@dataclass(frozen=True, slots=True)
class Aimd:
    """Additive increase, multiplicative decrease of the batch size, as published by Clipper.

    Notes
    -----
    Source: Crankshaw et al., "Clipper", NSDI 2017, section 4.3.1.
    """

    def to_core(self) -> tuple[str, dict[str, Any]]:
        """Return the strategy's name and parameters for the core."""
        return "aimd", {}


@dataclass(frozen=True, slots=True)
class Quantile:
    """The largest batch that keeps the objective in 99 of 100 runs, as published by Clipper.

    Fits the 0.99 quantile of a batch's latency as a line ``alpha * rows + beta`` to the last 1,000
    batches of a replica, and runs at most ``(slo - beta) / alpha`` rows at once.

    Notes
    -----
    Source: Crankshaw et al., "Clipper", NSDI 2017, section 4.3.2.
    """

    def to_core(self) -> tuple[str, dict[str, Any]]:
        """Return the strategy's name and parameters for the core."""
        return "quantile", {}


@dataclass(frozen=True, slots=True)
class Deadline:
    """Learns what a batch takes and forms the largest that keeps the deadlines. The default.

    Parameters
    ----------
    max_batch : int, default 4096
        No batch is larger, 1 to 65,536.
    delay : float, default 0
        Seconds that a batch may wait for more rows, counted from its oldest row; never past a
        deadline. Multiplies the throughput of models with a high fixed cost at light load.
    """

    max_batch: int = 4096
    delay: float = 0.0

    def __post_init__(self) -> None:
        _check_rows(self.max_batch, "Deadline(max_batch)")
        if not 0.0 <= self.delay < 60.0:
            raise ValueError(
                f"Deadline(delay) is {self.delay!r}: give seconds from 0 to 60, such as 0.002"
            )

    def to_core(self) -> tuple[str, dict[str, Any]]:
        """Return the strategy's name and parameters for the core."""
        return "deadline", {"max_batch": self.max_batch, "delay_ns": int(self.delay * 1e9)}


Strategy = Fixed | Aimd | Quantile | Deadline

_SHORTHANDS: dict[str, Strategy] = {
    "deadline": Deadline(),
    "aimd": Aimd(),
    "quantile": Quantile(),
}


def to_strategy(batching: Strategy | str) -> Strategy:
    """Resolve a shorthand such as ``"deadline"``."""
    if isinstance(batching, str):
        try:
            return _SHORTHANDS[batching]
        except KeyError:
            raise ValueError(
                f"batching={batching!r} is unknown: give one of {sorted(_SHORTHANDS)}, or "
                "Fixed(n), Aimd(), Quantile(), Deadline(...)"
            ) from None
    if not isinstance(batching, (Fixed, Aimd, Quantile, Deadline)):
        raise TypeError(
            f"batching is {batching!r}: give Fixed(n), Aimd(), Quantile() or Deadline(...)"
        )
    return batching


def largest_batch(strategy: Strategy) -> int:
    """Return the most rows that the strategy may ask for."""
    if isinstance(strategy, Fixed):
        return strategy.rows
    return strategy.max_batch if isinstance(strategy, Deadline) else Deadline().max_batch
