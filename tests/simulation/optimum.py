"""The exact offline optimum of batching one model on one device.

How many rows can be answered in time by a scheduler that knows all arrivals in advance? All rows
have one objective, so deadlines come in the order of arrivals ("agreeable" jobs), and a batch of
``b`` rows takes ``l(b)``, which does not fall with ``b``. Three exchanges show that it is enough to
look at batches of consecutive rows, in arrival order, each started as early as it can be:

1. *Order.* Let a younger row be in an earlier batch and an older row in a later one, and swap them.
   The older row has arrived when the younger had, and now ends before the later batch, which kept
   its deadline. The younger row ends when the older one did, by a deadline that lies before its
   own. Sizes, and with them all times, stay the same.
2. *No holes.* Let a batch from row ``e`` to row ``f`` leave out a row between them. Run that row
   instead of ``e``: it arrived before ``f``, which the batch waits for anyway, and its deadline is
   later than that of ``e``. Repeated, all rows left out lie between batches.
3. *As early as possible.* A batch of rows ``e .. f`` cannot start before ``f`` has arrived nor
   before the device is free, and starting then harms nobody. It is in time if it ends by the
   deadline of ``e``, the earliest of its deadlines.

So a schedule is a sequence of "skip a row" and "run the next b rows", and among those that settled
the first ``i`` rows and skipped ``s`` of them only the earliest time at which the device is free
matters:

    F[i + 1][s + 1] = min(., F[i][s])
    F[i + b][s]     = min(., max(F[i][s], a[i + b - 1]) + l(b))   if that is <= a[i] + slo

The answer is ``n`` less the least ``s`` with a finite ``F[n][s]``. With ``S`` skips and batches of
at most ``B`` rows this takes ``n * B * S`` steps, vectorised over ``s``.
"""

from collections.abc import Callable
from itertools import combinations
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Times: TypeAlias = NDArray[np.float64]
Latency: TypeAlias = Callable[[int], float]


def optimum(arrivals: Times, slo: float, latency: Latency, reached: int = 0) -> int:
    """Return the most rows that any schedule answers in time.

    Parameters
    ----------
    arrivals : ndarray of float64, shape (rows,), ascending
        In any unit of time, the one of ``slo`` and ``latency``.
    slo : float
        Time from the arrival of a row to its deadline, which may just be met.
    latency : callable
        What a batch of so many rows takes; must not fall with the size.
    reached : int
        Rows that some schedule is known to answer; saves time, does not change the result.
    """
    count = len(arrivals)
    skips = count - min(reached, count) + 1
    takes = [0.0]
    while len(takes) <= count and (longer := latency(len(takes))) <= slo:
        takes.append(longer)
    most = len(takes) - 1
    free = np.full((most + 1, skips), np.inf)  # row i % (most + 1) is F[i]
    free[0, 0] = -np.inf
    for i in range(count):
        here = free[i % (most + 1)].copy()
        free[i % (most + 1)] = np.inf
        for rows in range(1, min(most, count - i) + 1):
            last, latest = arrivals[i + rows - 1], arrivals[i] + slo - takes[rows]
            if last > latest:
                break
            start = np.maximum(here, last)
            end = np.where(start <= latest, start + takes[rows], np.inf)
            there = free[(i + rows) % (most + 1)]
            np.minimum(there, end, out=there)
        after = free[(i + 1) % (most + 1)]
        after[1:] = np.minimum(after[1:], here[:-1])
    done = np.flatnonzero(free[count % (most + 1)] < np.inf)
    return count - int(done[0]) if len(done) else 0


def optimum_by_brute_force(arrivals: Times, slo: float, latency: Latency) -> int:
    """Try every set of rows, and for each every way to part and order it; for tiny instances."""
    count = len(arrivals)
    for served in range(count, 0, -1):
        if any(
            _can_serve(set(rows), arrivals, slo, latency, -np.inf)
            for rows in combinations(range(count), served)
        ):
            return served
    return 0


def _can_serve(rows: set[int], arrivals: Times, slo: float, latency: Latency, free: float) -> bool:
    """Whether all of ``rows`` can be served from ``free`` on, in batches of any make and order."""
    if not rows:
        return True
    for size in range(1, len(rows) + 1):
        for batch in combinations(sorted(rows), size):
            end = max(free, *(arrivals[row] for row in batch)) + latency(size)
            if end <= min(arrivals[row] for row in batch) + slo and _can_serve(
                rows - set(batch), arrivals, slo, latency, end
            ):
                return True
    return False
