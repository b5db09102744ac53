"""Open-loop load on an application: when queries come, and what became of each.

>>> import clipper, numpy as np
>>> from clipper import load
>>> with clipper.Engine() as engine:
...     total = engine.deploy("total", lambda x: x.sum(axis=1), warmup=np.ones(2), slo=0.5)
...     result = load.run(total, np.ones((8, 2)), load.poisson(rate=500.0, seconds=0.1, seed=1))
>>> bool(result.answered.all())
True

Queries come when they come, however long earlier ones take: a service whose users do not wait for
one another is loaded like that. Latencies count from the scheduled arrival, so that a stall is seen
by all who came during it (free of coordinated omission).
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._core.load import LoadCore
from .application import Application
from .errors import Cause
from .tensor import Rows

__all__ = ["LoadResult", "gamma", "markov_modulated", "poisson", "replay", "run"]

#: Arrivals, in seconds from the start, ascending.
Times: TypeAlias = NDArray[np.float64]

_PROGRESS_SECONDS = 0.1
_LONGEST_SECONDS = 1e9


def poisson(rate: float, seconds: float, seed: int) -> Times:
    """Draw arrivals that know nothing of one another: a Poisson process.

    Parameters
    ----------
    rate : float
        Rows per second, in the mean.
    seconds : float
        Length.
    seed : int

    Returns
    -------
    ndarray of float64
        Seconds from the start, ascending.

    Raises
    ------
    ValueError
        If a number cannot be used.
    """
    _check_positive(rate=rate, seconds=seconds)
    random = np.random.default_rng(seed)
    # Given how many come, each comes at any time.
    return np.sort(random.uniform(0.0, seconds, random.poisson(rate * seconds)))


def gamma(rate: float, seconds: float, seed: int, *, cv: float = 3.0) -> Times:
    """Draw arrivals in bursts: gaps from a gamma distribution.

    Parameters
    ----------
    rate : float
        Rows per second, in the mean.
    seconds : float
        Length.
    seed : int
    cv : float, default 3
        Coefficient of variation of the gaps: 1 is a Poisson process, more is burstier, less is
        more even.

    Returns
    -------
    ndarray of float64
        Seconds from the start, ascending.

    Raises
    ------
    ValueError
        If a number cannot be used.
    """
    _check_positive(rate=rate, seconds=seconds, cv=cv)
    random = np.random.default_rng(seed)
    shape = cv**-2
    parts: list[Times] = []
    reached = 0.0
    while reached < seconds:
        gaps = random.gamma(shape, 1 / (rate * shape), max(int(rate * seconds * 1.1), 64))
        parts.append(reached + np.cumsum(gaps))
        reached = float(parts[-1][-1])
    times = np.concatenate(parts)
    return times[times < seconds]


def markov_modulated(
    rate: float,
    seconds: float,
    seed: int,
    *,
    contrast: float = 5.0,
    calm: float = 0.2,
    busy: float = 0.12,
) -> Times:
    """Draw arrivals whose rate switches between calm and busy phases.

    Parameters
    ----------
    rate : float
        Rows per second, in the mean over both.
    seconds : float
        Length.
    seed : int
    contrast : float, default 5
        The rate of busy phases, divided by that of calm ones.
    calm, busy : float
        Mean length of each phase, in seconds; lengths are drawn from exponential distributions.

    Returns
    -------
    ndarray of float64
        Seconds from the start, ascending.

    Raises
    ------
    ValueError
        If a number cannot be used.

    Notes
    -----
    Source: Fischer and Meier-Hellstern, "The Markov-modulated Poisson process (MMPP) cookbook",
    Performance Evaluation 18, 1993.
    """
    _check_positive(rate=rate, seconds=seconds, contrast=contrast, calm=calm, busy=busy)
    random = np.random.default_rng(seed)
    calm_rate = rate * (calm + busy) / (calm + contrast * busy)
    is_busy = bool(random.random() < busy / (calm + busy))
    parts: list[Times] = []
    start = 0.0
    while start < seconds:
        end = min(start + random.exponential(busy if is_busy else calm), seconds)
        count = random.poisson((end - start) * calm_rate * (contrast if is_busy else 1.0))
        parts.append(np.sort(random.uniform(start, end, count)))
        start, is_busy = end, not is_busy
    return np.concatenate(parts)


def replay(trace: ArrayLike, *, speed: float = 1.0) -> Times:
    """Take the arrivals from a trace.

    Parameters
    ----------
    trace : array_like, shape (n,)
        Times in seconds, ascending, counted from anywhere: a log's time stamps will do.
    speed : float, default 1
        2 replays it twice as fast.

    Returns
    -------
    ndarray of float64
        Seconds from the first arrival, ascending.

    Raises
    ------
    ValueError
        If the trace is not ascending times, or the speed not above 0.
    """
    _check_positive(speed=speed)
    times = np.asarray(trace, np.float64)
    if times.ndim != 1 or len(times) == 0:
        raise ValueError(f"the trace has shape {times.shape}: give the times of its arrivals, (n,)")
    return _checked_arrivals((times - times[0]) / speed, "trace")


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What became of each arrival, in the order of their schedule.

    Attributes
    ----------
    arrivals : ndarray of float64, shape (n,)
        When each was scheduled, in seconds from the start.
    chosen : ndarray of uint32, shape (n,)
        Which of the rows each asked.
    latency : ndarray of float64, shape (n,)
        Seconds from the scheduled arrival until its end was known, whatever that was.
    lateness : ndarray of float64, shape (n,)
        Seconds from the scheduled arrival until the generator asked: it shares the machine with
        what it measures. Latencies contain it.
    cause : ndarray of uint8, shape (n,)
        0: answered; else the number of the ``Cause``.
    confidence : ndarray of float32, shape (n,)
        Of answers; 0 else.
    models : ndarray of uint32, shape (n,)
        Bit m is set where the application's m-th model answered.
    outputs : ndarray, shape (n, ...), or what else ``predict_many`` returns, or None
        Answers, zeros or empty rows where there is none; None if they were not kept.
    budget : float or None
        Seconds within which each had to be answered; None: no deadline.
    """

    arrivals: Times
    chosen: NDArray[np.uint32]
    latency: NDArray[np.float64]
    lateness: NDArray[np.float64]
    cause: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    models: NDArray[np.uint32]
    outputs: Any
    budget: float | None

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Which arrivals were answered by the models, shape (n,)."""
        answered: NDArray[np.bool_] = self.cause == 0
        return answered

    @property
    def in_time(self) -> NDArray[np.bool_]:
        """Which answers were in hand before their deadline, shape (n,)."""
        if self.budget is None:
            return self.answered
        return self.answered & (self.latency <= self.budget)

    @property
    def in_time_share(self) -> float:
        """Answered in time, as a share of all arrivals."""
        return float(self.in_time.mean())

    @property
    def offered(self) -> float:
        """Arrivals per second of the schedule; NaN if all come at its start."""
        return self._per_second(len(self.arrivals))

    @property
    def goodput(self) -> float:
        """Answers in time per second of the schedule; NaN if all come at its start."""
        return self._per_second(int(self.in_time.sum()))

    @property
    def p50(self) -> float:
        """Median latency of answers, in seconds; NaN without any."""
        return self.quantile(0.5)

    @property
    def p99(self) -> float:
        """0.99 quantile of the latency of answers, in seconds; NaN without any."""
        return self.quantile(0.99)

    @property
    def p999(self) -> float:
        """0.999 quantile of the latency of answers, in seconds; NaN without any."""
        return self.quantile(0.999)

    @property
    def lateness_p99(self) -> float:
        """0.99 quantile of how late the generator asked, in seconds."""
        return float(np.quantile(self.lateness, 0.99))

    @property
    def lateness_max(self) -> float:
        """How late the generator asked at most, in seconds."""
        return float(self.lateness.max())

    @property
    def causes(self) -> dict[Cause, int]:
        """How many were not answered, by cause; without those that are 0."""
        counts = np.bincount(self.cause, minlength=1 + len(Cause))
        return {cause: int(counts[cause.value]) for cause in Cause if counts[cause.value]}

    def quantile(self, p: float) -> float:
        """Return the ``p`` quantile of the latency of answers, in seconds; NaN without any."""
        known = self.latency[self.answered]
        return float(np.quantile(known, p)) if len(known) else float("nan")

    def _per_second(self, count: int) -> float:
        seconds = float(self.arrivals[-1])
        return count / seconds if seconds > 0 else float("nan")

    def __repr__(self) -> str:
        return (
            f"LoadResult(n={len(self.arrivals)}, offered={self.offered:.1f}/s, "
            f"goodput={self.goodput:.1f}/s, in_time={self.in_time_share:.2%}, "
            f"p99={self.p99 * 1e3:.2f} ms, lateness_p99={self.lateness_p99 * 1e3:.2f} ms)"
        )


def run(
    application: Application,
    rows: Rows,
    arrivals: ArrayLike,
    *,
    deadline: float | None = None,
    chosen: ArrayLike | None = None,
    seed: int = 0,
    keep_outputs: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> LoadResult:
    """Ask an application at the given times, one row each, and wait for the last to end.

    Parameters
    ----------
    application : Application
        Or a model, which is one.
    rows : array_like, shape (m, ...), or what else ``predict_many`` takes
        Input rows to ask with.
    arrivals : array_like, shape (n,)
        Seconds from the start, ascending: what :func:`poisson` and its like return.
    deadline : float, optional
        Seconds from each scheduled arrival until its answer must be held; the application's SLO if
        not given.
    chosen : array_like of int, shape (n,), optional
        Which row each arrival asks; drawn evenly if not given.
    seed : int, default 0
        Of that draw.
    keep_outputs : bool, default True
        Whether to keep each answer, n rows of memory.
    progress : callable, optional
        Called about ten times a second, on the calling thread, with how many have ended and n.

    Returns
    -------
    LoadResult

    Raises
    ------
    TypeError, ValueError
        If the rows are not what the application takes, the times do not ascend, or a choice is no
        row.
    EngineClosedError
        If the engine is closed, also while it runs.

    Notes
    -----
    The generator runs on a thread of its own that never takes the GIL, and spins where arrivals
    are less than 0.1 ms apart: leave it a core. An exception here, such as a KeyboardInterrupt or
    one that ``progress`` raises, ends it and withdraws what is open.
    """
    if not isinstance(application, Application):
        raise TypeError(
            f"the load goes to an Application or a Model, not to {type(application).__name__}: "
            "give what deploy() or create_application() returned"
        )
    application.core.check_usable()
    times = _checked_arrivals(arrivals, "arrivals")
    which = _checked_choice(chosen, len(times), _count(rows), seed)
    core = LoadCore(
        application, rows, np.round(times * 1e9).astype(np.int64), which,
        deadline=deadline, keep_outputs=keep_outputs,
    )  # fmt: skip
    _see_through(core, len(times), progress)
    if core.ended < len(times):
        application.core.check_usable()
        raise RuntimeError(f"the load ended after {core.ended} of {len(times)} arrivals")
    latency, lateness = (ns.astype(np.float64) / 1e9 for ns in (core.latency_ns, core.late_ns))
    return LoadResult(
        arrivals=times, chosen=which, latency=latency, lateness=lateness, cause=core.causes,
        confidence=core.confidences, models=core.models, outputs=core.outputs, budget=core.budget,
    )  # fmt: skip


def _see_through(
    core: LoadCore, arrivals: int, progress: Callable[[int, int], object] | None
) -> None:
    thread = threading.Thread(target=core.run, name="clipper-load", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_PROGRESS_SECONDS)
            if progress is not None:
                progress(core.ended, arrivals)
            if core.application.core.is_closed:
                core.stop()  # it may sleep until an arrival that is far away
    except BaseException:
        core.stop()
        thread.join()
        raise


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0.0 < value < _LONGEST_SECONDS:
            raise ValueError(f"{name} is {value!r}: give a number above 0 (and below 1e9)")


def _checked_arrivals(arrivals: ArrayLike, name: str) -> Times:
    times = np.asarray(arrivals, np.float64)
    if times.ndim != 1 or len(times) == 0:
        raise ValueError(
            f"{name} has shape {times.shape}: give the times of at least one arrival, shape (n,)"
        )
    if not (np.all(np.diff(times) >= 0) and times[0] >= 0 and times[-1] < _LONGEST_SECONDS):
        raise ValueError(f"{name} must ascend from 0 on, in seconds, without NaN: sort them")
    return times


def _count(rows: Rows) -> int:
    if isinstance(rows, Mapping):
        return len(next(iter(rows.values()), ()))
    return len(rows) if isinstance(rows, Sequence) else len(np.atleast_1d(rows))


def _checked_choice(
    chosen: ArrayLike | None, arrivals: int, rows: int, seed: int
) -> NDArray[np.uint32]:
    if rows == 0:
        raise ValueError("there are no rows to ask with: give an array of shape (m, ...), m >= 1")
    if chosen is None:
        return np.random.default_rng(seed).integers(rows, size=arrivals, dtype=np.uint32)
    which = np.asarray(chosen)
    if which.shape != (arrivals,) or which.dtype.kind not in "iu":
        raise ValueError(
            f"chosen is {which.dtype} of shape {which.shape}: give one integer for each of the "
            f"{arrivals} arrivals"
        )
    if which.min() < 0 or which.max() >= rows:
        raise ValueError(
            f"chosen goes from {which.min()} to {which.max()}: there are rows 0 to {rows - 1}"
        )
    return np.ascontiguousarray(which, np.uint32)
