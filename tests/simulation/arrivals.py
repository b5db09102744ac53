"""Seeded arrival processes for the batching simulations.

Times are float64 milliseconds, ascending, starting near zero. Load is a multiple of the SLO
capacity: the largest ``b / l(b)`` of a batch that takes at most half the objective.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Times: TypeAlias = NDArray[np.float64]
Latency: TypeAlias = Callable[[int], float]


def slo_capacity(latency: Latency, slo_ms: float) -> float:
    """Return the largest ``b / l(b)`` with ``l(b) <= slo / 2``, in rows per ms.

    A model whose single row takes longer than half the objective counts with that row.
    """
    best, rows = 1 / latency(1), 1
    while latency(rows) <= slo_ms / 2:
        best = max(best, rows / latency(rows))
        rows += 1
    return best


def poisson(count: int, rate: float, seed: int) -> Times:
    """Draw a Poisson process of ``rate`` rows per ms."""
    random = np.random.default_rng(seed)
    return np.cumsum(random.exponential(1 / rate, count))


def gamma(count: int, rate: float, seed: int, variation: float = 3.0) -> Times:
    """Draw gaps from a gamma distribution with the given coefficient of variation: bursts."""
    random = np.random.default_rng(seed)
    shape = variation**-2
    return np.cumsum(random.gamma(shape, 1 / (rate * shape), count))


def markov(count: int, rate: float, seed: int, slo_ms: float) -> Times:
    """Draw a Markov-modulated Poisson process of mean ``rate``.

    Calm phases run at 0.4 times the rate for 10 objectives in the mean, busy ones at 2.0 times the
    rate for 6. Each phase is drawn whole: given their number, arrivals in it are uniform.
    """
    random = np.random.default_rng(seed)
    parts: list[Times] = []
    drawn, start, busy = 0, 0.0, False
    while drawn < count:
        length = random.exponential((6 if busy else 10) * slo_ms)
        arrived = random.poisson(length * rate * (2.0 if busy else 0.4))
        parts.append(np.sort(random.uniform(start, start + length, arrived)))
        drawn, start, busy = drawn + arrived, start + length, not busy
    return np.concatenate(parts)[:count]
