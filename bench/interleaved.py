"""Measures things against each other in turns, so that whatever disturbs the machine hits all."""

import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

#: Does some work and returns how many rows, or calls, that was.
Way = Callable[[], int]


def interleave(ways: Mapping[str, Way], rounds: int) -> dict[str, list[float]]:
    """Run every way once a round, each round beginning with another one.

    Parameters
    ----------
    ways : mapping of str to Way
    rounds : int

    Returns
    -------
    dict of str to list of float
        Seconds per row of each way, in each round.
    """
    names = list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        ways[name]()  # caches, lazy set-up
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            began = time.perf_counter()
            rows = ways[name]()
            seconds[name].append((time.perf_counter() - began) / rows)
    return seconds


def ratios(baseline: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Return the rate of ours over the baseline's, round by round."""
    return [theirs / own for theirs, own in zip(baseline, ours, strict=True)]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: a value from each round, and what it should be."""

    name: str
    values: list[float]
    wanted: float | None  # None: shown, not judged
    at_least: bool
    unit: str = ""

    @property
    def median(self) -> float:
        """The median over all rounds."""
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool:
        """Whether the median is as wanted."""
        if self.wanted is None:
            return True
        return self.median >= self.wanted if self.at_least else self.median <= self.wanted

    def line(self) -> str:
        """Return the figure as a line of the table."""
        low, high = self.median, self.median
        if len(self.values) > 1:
            low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        wanted = "" if self.wanted is None else f"{'≥' if self.at_least else '≤'} {self.wanted:g}"
        verdict = "-" if self.wanted is None else "met" if self.is_met else "MISSED"
        return (
            f"{self.name:54} {wanted:8} {self.median:9.3f} "
            f"{low:9.3f} …{high:9.3f} {self.unit:5} {len(self.values):6}  {verdict}"
        )


HEADING = (
    f"{'what':54} {'wanted':8} {'median':>9} {'quartiles':>20}  {'unit':5} {'rounds':>6}  verdict"
)


class Crew:
    """Threads that stand ready, so that starting them is not measured."""

    def __init__(self, size: int) -> None:
        self._work: Callable[[int], None] = lambda _: None
        self._gate = threading.Barrier(size + 1)
        self._is_over = False
        self._failed: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(size)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, work: Callable[[int], None]) -> None:
        """Let every thread do ``work(its number)``; returns when all have."""
        self._work = work
        self._gate.wait()
        self._gate.wait()
        if self._failed:
            raise self._failed[0]

    def _run(self, number: int) -> None:
        while True:
            self._gate.wait()
            if self._is_over:
                return
            try:
                self._work(number)
            except BaseException as error:
                self._failed.append(error)
            self._gate.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._gate.wait()
        for thread in self._threads:
            thread.join()


class BusyThread:
    """A neighbour that computes in Python without end while the block lasts."""

    def __init__(self) -> None:
        self._is_over = False
        self._thread = threading.Thread(target=self._compute, daemon=True)

    def _compute(self) -> None:
        number = 1
        while not self._is_over:
            number = number * 1103515245 + 12345 & 0x7FFFFFFF

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._thread.join()


def machine() -> str:
    """Describe what this ran on, and how quiet it was."""
    load, _, _ = os.getloadavg()
    cores = os.cpu_count() or 1
    noisy = "" if load < 0.3 * cores else " — NOT QUIET: these figures are not to be quoted"
    return f"{cores} cores, load average {load:.2f} before the start{noisy}"
