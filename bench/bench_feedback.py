"""How much feedback an application takes: one by one, many at a time, and by input."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import clipper
from clipper import FeedbackStatus

ROWS = 256
MODELS = ("a", "b", "c", "d")
TAKEN = {"group": f"feedback on {ROWS} predictions"}
BY_INPUT = {"group": f"feedback for {ROWS} inputs, four models"}
ROUNDS = {"rounds": 30, "warmup_rounds": 2}


def _inputs() -> NDArray[np.float32]:
    return np.random.default_rng(0).random((ROWS, 64), dtype=np.float32)


def _application(engine: clipper.Engine, **options: Any) -> clipper.Application:
    """Make an ensemble of four linear models of ten classes."""
    random = np.random.default_rng(1)
    for name in MODELS:
        weights = random.standard_normal((64, 10)).astype(np.float32)

        def classify(
            batch: NDArray[np.float32], weights: NDArray[np.float32] = weights
        ) -> NDArray[np.int64]:
            classes: NDArray[np.int64] = (batch @ weights).argmax(axis=1)
            return classes

        engine.deploy(name, classify, warmup=_inputs()[0], **options)
    return engine.create_application(
        "digits", models=MODELS, slo=None, policy=clipper.MajorityVote(), loss="zero_one"
    )


def _taken(application: clipper.Application, rounds: int) -> bool:
    counted: dict[str, int] = application.describe()["feedback"]
    return counted["applied"] == rounds * ROWS


def _measure(
    benchmark: Any,
    application: clipper.Application,
    give: Callable[[Any], Any],
    *,
    by_id: bool = False,
) -> None:
    """Each round gives feedback on new predictions, which are made outside of the measure."""
    asked = 0

    def predict() -> tuple[tuple[Any], dict[str, Any]]:
        nonlocal asked
        asked += 1
        made = application.predict_many(_inputs())
        return ([one.query_id if by_id else one for one in made],), {}

    benchmark.pedantic(give, setup=predict, **ROUNDS)
    assert _taken(application, asked)


@pytest.mark.benchmark(**TAKEN)
def bench_dict_of_predictions(benchmark: Any, engine: clipper.Engine) -> None:
    """What one would write oneself: predictions by id, a comparison for each, a sum."""
    application = _application(engine)
    made = application.predict_many(_inputs())
    known = {one.query_id: one for one in made}

    def give() -> float:
        return sum(float(known[key].output != 3) for key in known) / len(known)

    assert 0.0 <= benchmark(give) <= 1.0


@pytest.mark.benchmark(**TAKEN)
def bench_feedback_one_by_one(benchmark: Any, engine: clipper.Engine) -> None:
    application = _application(engine)

    def give(predictions: list[clipper.Prediction]) -> None:
        for prediction in predictions:
            application.feedback(prediction, label=3)

    _measure(benchmark, application, give)


@pytest.mark.benchmark(**TAKEN)
def bench_feedback_one_by_one_by_id(benchmark: Any, engine: clipper.Engine) -> None:
    application = _application(engine)

    def give(ids: list[str]) -> None:
        for query_id in ids:
            application.feedback(query_id, label=3)

    _measure(benchmark, application, give, by_id=True)


@pytest.mark.benchmark(**TAKEN)
def bench_feedback_many(benchmark: Any, engine: clipper.Engine) -> None:
    application = _application(engine)
    labels = np.full(ROWS, 3)

    def give(predictions: list[clipper.Prediction]) -> None:
        application.feedback_many(predictions, labels=labels)

    _measure(benchmark, application, give)


@pytest.mark.benchmark(**TAKEN)
def bench_feedback_many_of_one_call(benchmark: Any, engine: clipper.Engine) -> None:
    application = _application(engine)
    labels = np.full(ROWS, 3)
    asked = 0

    def predict() -> tuple[tuple[Any], dict[str, Any]]:
        nonlocal asked
        asked += 1
        return (application.predict_many(_inputs()),), {}

    benchmark.pedantic(
        lambda predictions: application.feedback_many(predictions, labels=labels),
        setup=predict, **ROUNDS,
    )  # fmt: skip
    assert _taken(application, asked)


@pytest.mark.benchmark(**BY_INPUT)
@pytest.mark.parametrize("cached", [False, True])
def bench_feedback_for(benchmark: Any, engine: clipper.Engine, cached: bool) -> None:
    if cached and "cache" not in inspect.signature(engine.deploy).parameters:
        pytest.skip("there are no prediction caches yet")
    application = _application(engine, **({"cache": True} if cached else {}))
    inputs = _inputs()

    def give() -> None:
        for row in inputs:
            assert application.feedback_for(row, label=3) is FeedbackStatus.APPLIED

    benchmark.pedantic(give, **ROUNDS)


@pytest.mark.benchmark(**BY_INPUT)
def bench_feedback_for_many(benchmark: Any, engine: clipper.Engine) -> None:
    application = _application(engine)
    inputs, labels = _inputs(), np.full(ROWS, 3)
    statuses = benchmark(lambda: application.feedback_for_many(inputs, labels=labels))
    assert not statuses.any()
