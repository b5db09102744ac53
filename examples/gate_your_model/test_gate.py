"""Gates a model by what its users see: copy this beside it, and run it in CI with ``pytest``.

pytest --benchmark-autosave                                        keeps a run to compare with
pytest --benchmark-compare --benchmark-compare-fail=median:20%     fails if it got slower since
pytest --benchmark-disable                                         only sees that all of it works
"""

import numpy as np
import pytest
from numpy.typing import NDArray

import clipper
from clipper.testing import ServingBenchmark

WEIGHTS = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
ROWS = np.random.default_rng(1).random((256, 64), dtype=np.float32)


def classify(batch: NDArray[np.float32]) -> NDArray[np.int64]:
    """Stand in for your model."""
    labels: NDArray[np.int64] = (batch @ WEIGHTS).argmax(axis=1)
    return labels


@pytest.fixture
def digits(engine: clipper.Engine) -> clipper.Application:
    """Deploy it as the service does; ``engine`` comes with clipper and is closed afterwards."""
    engine.deploy("classifier", classify, warmup=ROWS[0])
    return engine.create_application("digits", models=["classifier"], slo=0.250, default=-1)


def test_served_answers_are_those_of_the_model(digits: clipper.Application) -> None:
    """Batched and alone, each row gets its own answer."""
    assert np.array_equal(digits.predict_many(ROWS).output, classify(ROWS))


def test_digits_hold_their_objective(
    digits: clipper.Application, serving_benchmark: ServingBenchmark
) -> None:
    """At the rate of a busy hour, nearly everybody is answered in time."""
    result = serving_benchmark(digits, ROWS, rate=300.0, seconds=1.0)
    assert result.in_time_share >= 0.95
