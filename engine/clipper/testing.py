"""What the pytest plugin does: engines for tests, and benchmarks under load.

Install pytest (and pytest-benchmark for ``serving_benchmark``), and the fixtures are there:

    def test_digits_hold_their_objective(engine, serving_benchmark):
        digits = engine.deploy("digits", my_model, slo=0.020)
        result = serving_benchmark(digits, rows, rate=500.0)
        assert result.in_time_share >= 0.99

``docs/embedding.md`` tells how to compare and gate runs.
"""

import math
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import load
from .application import Application
from .engine import Engine
from .load import LoadResult
from .tensor import Rows

__all__ = ["ServingBenchmark", "engine_of_one_test"]

#: How long what is under way at the end of a test has to end.
_SETTLING_SECONDS = 1.0
#: Length of the load where benchmarks are disabled: it shows that the test works.
_DISABLED_SECONDS = 0.1


@contextmanager
def engine_of_one_test() -> Generator[Engine, None, None]:
    """Make an engine, and close it at the end.

    Raises
    ------
    AssertionError
        At the end, if queries were left open: neither answered nor withdrawn a second later. Not
        if the block raises itself, or has closed the engine.
    """
    with Engine() as engine:
        yield engine
        left = _settled(engine)
    if left:
        raise AssertionError(
            f"the test left queries open: {left}. Wait for their answers, cancel them, give them a "
            "deadline, or close the engine in the test if that is what it is about"
        )


def _settled(engine: Engine) -> int:
    """Return how many queries are open, after a while in which they may end."""
    until = time.monotonic() + _SETTLING_SECONDS
    while (left := int(engine.describe()["open_queries"])) and time.monotonic() < until:
        time.sleep(0.005)
    return left


class _Clock(Protocol):
    def load(self, latencies: Iterator[float]) -> None: ...
    def rewind(self) -> None: ...
    def tick(self) -> None: ...


class ServingBenchmark:
    """The fixture ``serving_benchmark``: open-loop load, reported through pytest-benchmark.

    A round of the benchmark is an arrival, and lasts what that arrival waited: its columns,
    ``--benchmark-compare`` and ``--benchmark-compare-fail`` are about latencies. An arrival
    without an answer counts with its objective at least, so that refusing does not look fast.
    The rest is in the benchmark's ``extra_info``.
    """

    def __init__(self, benchmark: Any, clock: _Clock) -> None:
        self._benchmark = benchmark
        self._clock = clock

    def __call__(
        self,
        app: Application,
        rows: Rows,
        *,
        rate: float | None = None,
        slo: float | None = None,
        seconds: float = 2.0,
        arrivals: ArrayLike | None = None,
        seed: int = 0,
    ) -> LoadResult:
        """Offer a load, once a test.

        Parameters
        ----------
        app : Application
            Or a model, which is one.
        rows : array_like, shape (m, ...), or what else ``predict_many`` takes
            Input rows to ask with, drawn evenly.
        rate : float
            Rows per second, as a Poisson process; needed unless ``arrivals`` are given.
        slo : float, optional
            Seconds within which each must be answered; the application's own if not given.
        seconds : float, default 2
            Length of the load. With ``--benchmark-disable`` it is 0.1 s at most.
        arrivals : array_like, shape (n,), optional
            Seconds from the start, ascending, from :mod:`clipper.load` or a trace; instead of
            ``rate`` and ``seconds``.
        seed : int, default 0
            Of arrivals and of the choice among rows.

        Returns
        -------
        LoadResult

        Raises
        ------
        TypeError, ValueError
            If an argument cannot be used, as :func:`clipper.load.run` says.
        """
        times = _schedule(rate, seconds, arrivals, seed)
        if not self._benchmark.enabled:
            times = times[: max(int(np.searchsorted(times, _DISABLED_SECONDS)), 1)]
        results: list[LoadResult] = []

        def set_up() -> None:
            if not results:
                results.append(self._offer(app, rows, times, slo, seed))
            self._clock.rewind()

        # The set-up of a round is not timed: that of the first offers the load, and each round
        # then lets the latency of one arrival pass on the clock which the benchmark reads.
        self._benchmark.pedantic(self._clock.tick, setup=set_up, rounds=len(times))
        return results[0]

    def _offer(
        self, app: Application, rows: Rows, times: load.Times, slo: float | None, seed: int
    ) -> LoadResult:
        batches = _Batches(app)
        result = load.run(app, rows, times, deadline=slo, seed=seed)
        self._benchmark.extra_info.update(**_extra_info(result), **batches.since())
        least = np.where(result.answered, 0.0, result.budget or 0.0)
        self._clock.load(iter(np.maximum(result.latency, least).tolist()))
        return result


def _schedule(
    rate: float | None, seconds: float, arrivals: ArrayLike | None, seed: int
) -> load.Times:
    if (rate is None) == (arrivals is None):
        raise ValueError("give either a rate in rows per second, or arrivals")
    if arrivals is not None:
        return np.asarray(arrivals, np.float64)
    assert rate is not None
    drawn = load.poisson(rate, seconds, seed)
    if len(drawn) == 0:
        raise ValueError(
            f"nothing comes at rate={rate:g} within seconds={seconds:g}: give more of one of them"
        )
    return drawn


class _Batches:
    """Batches run from now on, over all replicas of an application's models."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._sizes, self._rows = self._now()

    def since(self) -> dict[str, Any]:
        sizes, rows = self._now()
        sizes -= self._sizes
        count = sizes.total()
        return {
            "batches": count,
            "batch_rows_mean": (rows - self._rows) / count if count else None,
            "batch_rows_p99": _quantile(sizes, 0.99) if count else None,
        }

    def _now(self) -> tuple[Counter[int], int]:
        sizes: Counter[int] = Counter()
        rows = 0
        for model in self._app.models:
            for runner in model.current.runners if model.current is not None else ():
                sizes.update(runner.batch_sizes())
                rows += runner.statistics()["rows"]
        return sizes, rows


def _quantile(counts: Counter[int], p: float) -> int:
    """Return the least value that at least the share `p` of all does not exceed."""
    values = sorted(counts)
    reached: NDArray[np.int64] = np.cumsum([counts[value] for value in values])
    return values[int(np.searchsorted(reached, p * int(reached[-1])))]


def _extra_info(result: LoadResult) -> dict[str, Any]:
    """Return what a reader of the benchmark's JSON wants to know; seconds, and rows per second."""
    figures = {
        "offered": result.offered,
        "goodput": result.goodput,
        "in_time_share": result.in_time_share,
        "p50": result.p50,
        "p99": result.p99,
        "p999": result.p999,
        "generator_late_p99": result.lateness_p99,
        "generator_late_max": result.lateness_max,
    }
    return {
        "arrivals": len(result.arrivals),
        "slo": result.budget,
        "causes": {cause.name.lower(): count for cause, count in result.causes.items()},
        # JSON knows no NaN.
        **{name: None if math.isnan(value) else value for name, value in figures.items()},
    }
