"""Open-loop load from Python: arrivals as asked for, every answer accounted for."""

import threading
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import clipper
from clipper import load

ROWS = np.arange(64, dtype=np.float32).reshape(16, 4)


def deploy_sum(engine: clipper.Engine, **options: Any) -> clipper.Model:
    return engine.deploy("sum", lambda batch: batch.sum(axis=1), warmup=ROWS[0], **options)


# ---- arrivals ----------------------------------------------------------------------------------

DRAWN = {
    "poisson": load.poisson,
    "gamma": load.gamma,
    "markov_modulated": load.markov_modulated,
}


@pytest.mark.parametrize("name", DRAWN)
def test_arrivals_ascend_within_their_seconds_at_their_rate(name: str) -> None:
    times = DRAWN[name](rate=1000.0, seconds=40.0, seed=3)
    assert np.all(np.diff(times) >= 0)
    assert times[0] >= 0
    assert times[-1] < 40.0
    assert len(times) == pytest.approx(40_000, rel=0.1)


@pytest.mark.parametrize("name", DRAWN)
def test_the_seed_decides_the_arrivals(name: str) -> None:
    draw = DRAWN[name]
    assert np.array_equal(draw(100.0, 2.0, 5), draw(100.0, 2.0, 5))
    assert not np.array_equal(draw(100.0, 2.0, 5), draw(100.0, 2.0, 6))


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_gamma_gaps_vary_as_asked(cv: float) -> None:
    gaps = np.diff(load.gamma(1000.0, 60.0, 1, cv=cv))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)


def _dispersion(times: NDArray[np.float64]) -> float:
    counts = np.histogram(times, np.arange(0.0, 40.0, 0.05))[0]
    return float(counts.var() / counts.mean())


def test_modulated_arrivals_come_in_phases() -> None:
    assert _dispersion(load.poisson(1000.0, 40.0, 1)) == pytest.approx(1.0, abs=0.3)
    assert _dispersion(load.markov_modulated(1000.0, 40.0, 1)) > 5
    even = load.markov_modulated(1000.0, 40.0, 1, contrast=1.0)
    assert _dispersion(even) == pytest.approx(1.0, abs=0.3)


def test_a_trace_is_replayed_from_its_first_arrival_at_the_speed_asked() -> None:
    assert load.replay([1e9 + 1, 1e9 + 2, 1e9 + 5]).tolist() == [0.0, 1.0, 4.0]
    assert load.replay([3, 5], speed=4).tolist() == [0.0, 0.5]


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: load.poisson(0, 1, 0), "rate is 0"),
        (lambda: load.poisson(1, float("nan"), 0), "seconds is nan"),
        (lambda: load.gamma(1, 1, 0, cv=-1), "cv is -1"),
        (lambda: load.markov_modulated(1, 1, 0, busy=0), "busy is 0"),
        (lambda: load.replay([]), "trace has shape"),
        (lambda: load.replay([2, 1]), "trace must ascend"),
        (lambda: load.replay([1, 2], speed=0), "speed is 0"),
    ],
)
def test_arrivals_that_cannot_be_are_refused(draw: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        draw()


# ---- the run -----------------------------------------------------------------------------------


def test_every_arrival_gets_its_own_answer(engine: clipper.Engine) -> None:
    model = deploy_sum(engine, slo=5.0)
    arrivals = load.poisson(2000.0, 0.5, 1)
    result = load.run(model, ROWS, arrivals)
    assert result.answered.all()
    assert result.outputs is not None
    assert np.array_equal(result.outputs, ROWS[result.chosen].sum(axis=1))
    assert np.array_equal(result.arrivals, arrivals)
    assert len(set(result.chosen.tolist())) == len(ROWS)
    assert (result.lateness >= 0).all()
    assert (result.latency > result.lateness).all()
    assert np.array_equal(result.models, np.ones(len(arrivals)))
    assert result.budget == pytest.approx(5.0)
    assert result.in_time_share == 1.0
    assert result.goodput == result.offered == pytest.approx(2000, rel=0.2)
    assert 0 < result.p50 <= result.p99 <= result.p999 <= result.latency.max()
    assert model.describe()["answered"] == len(arrivals)


def test_what_is_late_or_refused_is_counted_by_cause(engine: clipper.Engine) -> None:
    def slow(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(0.02)
        return batch.sum(axis=1)

    model = engine.deploy(
        "slow", slow, warmup=ROWS[0], slo=0.1, batching=clipper.Fixed(4), max_queue=8
    )
    result = load.run(model, ROWS, load.poisson(1000.0, 0.4, 1), keep_outputs=False)
    assert result.outputs is None
    assert result.causes
    assert set(result.causes) <= {clipper.Cause.DEADLINE, clipper.Cause.OVERLOAD}
    assert sum(result.causes.values()) + result.answered.sum() == len(result.arrivals)
    told = model.describe()
    assert told["answered"] == result.answered.sum()
    assert told["in_time"] == result.in_time.sum()
    counters = model.describe()["versions"]["1"]
    assert sum(replica["rows"] for replica in counters["replicas"]) + sum(
        counters[f"{fate}_rows"] for fate in ("refused", "hopeless", "expired", "withdrawn")
    ) == len(result.arrivals)


def test_latency_counts_from_the_schedule(engine: clipper.Engine) -> None:
    # All at once, and one row a batch of 10 ms: the last waits for all before it.
    def slow(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(0.01)
        return batch.sum(axis=1)

    model = engine.deploy("slow", slow, warmup=False, input=clipper.Tensor("float32", (4,)),
                          output=clipper.Tensor("float32"), batching=clipper.Fixed(1))  # fmt: skip
    result = load.run(model, ROWS, np.zeros(8), chosen=np.arange(8))
    assert result.budget is None
    assert result.in_time.all()
    assert np.isnan(result.goodput)
    assert (np.sort(result.latency) >= 0.01 * np.arange(1, 9)).all()


def test_a_deadline_of_its_own_replaces_the_objective(engine: clipper.Engine) -> None:
    model = deploy_sum(engine, slo=5.0)
    result = load.run(model, ROWS, [0.0, 0.001], deadline=1.5)
    assert result.budget == pytest.approx(1.5)


def test_an_application_says_which_models_answered(engine: clipper.Engine) -> None:
    def broken(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        raise ValueError("broken")

    spec = {"input": clipper.Tensor("float32", (4,)), "output": clipper.Tensor("float32")}
    engine.deploy("a", lambda batch: batch[:, 0], warmup=False, **spec)
    engine.deploy("b", broken, warmup=False, **spec)
    engine.deploy("c", lambda batch: batch[:, 0], warmup=False, **spec)
    vote = engine.create_application(
        "vote", models=["a", "b", "c"], slo=5.0, policy=clipper.MajorityVote()
    )
    result = load.run(vote, ROWS, load.poisson(200.0, 0.2, 1))
    assert (result.models == 0b101).all()
    assert result.outputs is not None
    assert np.array_equal(result.outputs, ROWS[result.chosen, 0])
    assert (result.confidence > 0.6).all()


def test_progress_is_told_while_it_runs(engine: clipper.Engine) -> None:
    told: list[tuple[int, int]] = []
    arrivals = load.poisson(200.0, 0.6, 1)
    load.run(
        deploy_sum(engine), ROWS, arrivals, progress=lambda ended, of: told.append((ended, of))
    )
    assert len(told) >= 3
    assert sorted(told) == told
    assert told[-1] == (len(arrivals), len(arrivals))


def test_an_interrupt_ends_it_and_withdraws_what_is_open(engine: clipper.Engine) -> None:
    release = threading.Event()

    def hung(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        release.wait(30)
        return batch.sum(axis=1)

    model = engine.deploy("hung", hung, warmup=False, input=clipper.Tensor("float32", (4,)),
                          output=clipper.Tensor("float32"))  # fmt: skip

    def interrupt(ended: int, of: int) -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        load.run(model, ROWS, [0.0, 0.0, 3600.0], progress=interrupt)
    assert time.monotonic() - began < 20
    assert model.describe()["causes"] == {"cancelled": 2}
    assert not [t for t in threading.enumerate() if t.name == "clipper-load"]
    release.set()


def test_closing_the_engine_ends_it() -> None:
    engine = clipper.Engine()
    model = deploy_sum(engine)
    with pytest.raises(clipper.EngineClosedError):
        load.run(model, ROWS, [0.0, 0.5, 3600.0], progress=lambda ended, of: engine.close())
    with pytest.raises(clipper.EngineClosedError):
        load.run(model, ROWS, [0.0])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"arrivals": []}, ValueError, "at least one arrival"),
        ({"arrivals": [[0.0]]}, ValueError, "at least one arrival"),
        ({"arrivals": [1.0, 0.5]}, ValueError, "must ascend"),
        ({"arrivals": [-1.0, 0.5]}, ValueError, "must ascend"),
        ({"arrivals": [0.0, float("nan")]}, ValueError, "must ascend"),
        ({"rows": np.ones((2, 3), np.float32)}, ValueError, "shape"),
        ({"rows": np.ones((2, 4), np.int64)}, TypeError, "dtype"),
        ({"rows": ROWS[:0]}, ValueError, "no rows to ask with"),
        ({"chosen": [0]}, ValueError, "one integer for each of the 2"),
        ({"chosen": [0.0, 1.0]}, ValueError, "one integer for each"),
        ({"chosen": [0, 16]}, ValueError, "rows 0 to 15"),
        ({"chosen": [-1, 0]}, ValueError, "rows 0 to 15"),
        ({"deadline": 0}, ValueError, "deadline is 0"),
        ({"deadline": "soon"}, TypeError, "deadline is 'soon'"),
        ({"application": "sum"}, TypeError, "not to str"),
    ],
)
def test_bad_input_is_refused(
    engine: clipper.Engine, change: dict[str, Any], error: type[Exception], says: str
) -> None:
    model = deploy_sum(engine)
    given: dict[str, Any] = {"application": model, "rows": ROWS, "arrivals": [0.0, 0.1]}
    with pytest.raises(error, match=says):
        load.run(**{**given, **change})
    assert model.describe()["rows"] == 0
