"""Latencies under open-loop load, at shares of what the bare model can do on this machine.

A round is an arrival, and its time what that arrival waited. Goodput, tails and batch sizes are in
the JSON's ``extra_info``.
"""

import pytest

import clipper
import subjects
from clipper import load
from clipper.testing import ServingBenchmark
from goodput import Subject, bare_seconds, best_batch, mlp

SLO = 0.02
SECONDS = 2.0


@pytest.mark.benchmark(group="no-op under load")
@pytest.mark.parametrize("rate", [1_000.0, 10_000.0])
def bench_no_op_under_load(
    serving_benchmark: ServingBenchmark, engine: clipper.Engine, rate: float
) -> None:
    subject = subjects.no_op(engine)
    with subjects.every_row_counted(subject.model) as note:
        result = serving_benchmark(subject.model, subject.rows, rate=rate, seconds=SECONDS)
        note(len(result.arrivals))


@pytest.fixture(scope="module")
def profiled() -> tuple[Subject, float]:
    """Give the MLP, and the rows per second that it can do within the objective."""
    pytest.importorskip("torch")
    subject = mlp()
    profile = {size: bare_seconds(subject, size) for size in (16, 64, 128, 256)}
    size = best_batch(profile, SLO)
    return subject, size / profile[size]


@pytest.mark.benchmark(group="MLP under load, objective 20 ms")
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def bench_mlp_under_load(
    serving_benchmark: ServingBenchmark,
    engine: clipper.Engine,
    profiled: tuple[Subject, float],
    share: float,
) -> None:
    subject, capacity = profiled
    model = engine.deploy("mlp", subject.adapter, slo=SLO)
    rate = share * capacity
    # Not counted: what waking up takes is learned from the first answers.
    load.run(model, subject.rows, load.poisson(rate, 0.2, seed=1))
    result = serving_benchmark(model, subject.rows, rate=rate, seconds=SECONDS)
    assert result.answered.any()
