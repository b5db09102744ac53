"""Cascades: the next model is asked only where the one before is not sure, and time is left."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.tree import DecisionTreeClassifier

import clipper
from clipper import Cascade, Cause, Tensor

LONG = 30.0  # seconds
Floats = NDArray[np.float32]

ROW = Tensor("float32", (1,))
PROBABILITIES = Tensor("float32", (2,))


@pytest.fixture
def engine() -> Iterator[clipper.Engine]:
    with clipper.Engine() as made:
        yield made


def sure_of(x: Floats) -> Floats:
    """Answer with the row's own number as the probability of the first of two classes."""
    return np.concatenate([x, 1 - x], axis=1)


def always(share: float) -> Any:
    return lambda x: np.tile(np.array([share, 1 - share], np.float32), (len(x), 1))


def deploy(engine: clipper.Engine, name: str, function: Any, **options: Any) -> clipper.Model:
    return engine.deploy(
        name, function, input=ROW, output=PROBABILITIES, warmup=np.ones(1, np.float32), **options
    )


def row(share: float) -> Floats:
    return np.array([share], np.float32)


def two(engine: clipper.Engine, large: Any = None, **options: Any) -> clipper.Application:
    deploy(engine, "small", sure_of)
    deploy(engine, "large", large or always(0.25), caller_runs=options.pop("caller_runs", True))
    return engine.create_application(
        "app", models=["small", "large"], policy=options.pop("policy", Cascade(0.9)),
        slo=options.pop("slo", LONG), **options,
    )  # fmt: skip


def test_a_sure_answer_ends_the_cascade(engine: clipper.Engine) -> None:
    prediction = two(engine).predict(row(0.95))
    np.testing.assert_allclose(prediction.output, [0.95, 0.05], atol=1e-6)
    assert prediction.confidence == pytest.approx(0.95)
    assert prediction.models == {"small": 1}
    assert prediction.missing == {}


def test_an_unsure_answer_is_handed_on(engine: clipper.Engine) -> None:
    prediction = two(engine).predict(row(0.6))
    np.testing.assert_allclose(prediction.output, [0.25, 0.75])
    assert prediction.confidence == pytest.approx(0.75)
    assert prediction.models == {"small": 1, "large": 1}


def test_a_confidence_that_equals_the_threshold_is_enough(engine: clipper.Engine) -> None:
    assert two(engine).predict(row(0.9)).models == {"small": 1}  # 0.9 as a float32


def test_a_confidence_that_is_no_number_is_not_sure(engine: clipper.Engine) -> None:
    assert two(engine).predict(row(np.nan)).models == {"small": 1, "large": 1}


def test_rows_go_as_far_as_each_must(engine: clipper.Engine) -> None:
    for name, function in {"a": sure_of, "b": lambda x: sure_of(x + 0.2), "c": always(0.5)}.items():
        deploy(engine, name, function)
    application = engine.create_application(
        "app", models=["a", "b", "c"], policy=Cascade([0.9, 0.85]), slo=LONG
    )
    shares = np.array([0.95, 0.7, 0.5, 0.92, 0.66, 0.6], np.float32)
    predictions = application.predict_many(shares[:, None])
    expected = [0.95, 0.9, 0.5, 0.92, 0.86, 0.5]
    np.testing.assert_allclose(predictions.output[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(predictions.confidence, expected, atol=1e-6)
    asked = ["".join(sorted(each.models)) for each in predictions]
    assert asked == ["a", "ab", "abc", "a", "ab", "abc"]
    assert application.describe()["stages"] == {
        "a": {"ran": 6, "skipped": 0, "failed": 0},
        "b": {"ran": 4, "skipped": 2, "failed": 0},
        "c": {"ran": 2, "skipped": 4, "failed": 0},
    }


def test_event_loops_and_futures_cascade_too(engine: clipper.Engine) -> None:
    application = two(engine)

    async def ask() -> list[Any]:
        shares = [0.95, 0.6, 0.99, 0.5]
        return await asyncio.gather(*[application.predict_async(row(s)) for s in shares])

    assert [len(each.models) for each in asyncio.run(ask())] == [1, 2, 1, 2]
    futures = [application.submit(row(share)) for share in (0.95, 0.6)]
    assert [len(future.result(LONG).models) for future in futures] == [1, 2]


def test_the_answer_stands_when_the_next_model_fails(engine: clipper.Engine) -> None:
    def failing(x: Floats) -> Floats:
        if x[0, 0] != 1.0:  # the warm-up
            raise RuntimeError("out of paper")
        return sure_of(x)

    prediction = two(engine, failing).predict(row(0.6))
    assert not prediction.is_default
    assert prediction.confidence == pytest.approx(0.6)
    assert prediction.models == {"small": 1}
    assert prediction.missing == {"large": Cause.MODEL_ERROR}


def test_a_first_model_that_fails_leaves_no_answer(engine: clipper.Engine) -> None:
    application = two(engine, default=None)

    def failing(x: Floats) -> Floats:
        if x[0, 0] != 1.0:
            raise RuntimeError("out of paper")
        return sure_of(x)

    deploy(engine, "small", failing, version=2)
    prediction = application.predict(row(0.6))
    assert (prediction.is_default, prediction.why) == (True, Cause.MODEL_ERROR)
    assert prediction.missing == {"small": Cause.MODEL_ERROR}


def test_the_answer_stands_when_the_deadline_comes_first(engine: clipper.Engine) -> None:
    go_on = threading.Event()

    def hang(x: Floats) -> Floats:
        if x[0, 0] != 1.0:
            go_on.wait(LONG)
        return sure_of(x)

    application = two(engine, hang, caller_runs=False)
    try:
        for ask in (application.predict, lambda *a, **k: application.submit(*a, **k).result(LONG)):
            prediction = ask(row(0.6), deadline=0.2)
            assert not prediction.is_default
            assert 0.15 < prediction.latency < LONG / 2
            assert prediction.confidence == pytest.approx(0.6)
            assert prediction.missing == {"large": Cause.DEADLINE}
    finally:
        go_on.set()


class Slow:
    """A model that takes too long for what is asked here, and waits where it is told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.busy = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, x: Floats) -> Floats:
        self.calls += 1
        if x[0, 0] == 0.5:
            self.busy.set()
            self.go_on.wait(LONG)
        else:
            time.sleep(0.15)
        return sure_of(x)


def warm(model: clipper.Model) -> None:
    """Ask until its controller trusts what it has seen."""
    for _ in range(100):
        if model.describe()["versions"]["1"]["replicas"][0]["warm"]:
            break
        model.predict(row(0.7))
    assert model.batch_bound(1) >= 0.15


def test_nothing_is_handed_on_when_no_time_is_left(engine: clipper.Engine) -> None:
    slow = Slow()
    application = two(engine, slow, caller_runs=False)
    large = engine.model("large")
    warm(large)
    waiting = application.submit(row(0.5))  # occupies it: an idle replica may be tried
    assert slow.busy.wait(LONG)
    try:
        prediction = application.predict(row(0.6), deadline=0.12)
        assert prediction.confidence == pytest.approx(0.6)
        assert (prediction.models, prediction.missing) == ({"small": 1}, {})
        assert large.describe()["versions"]["1"]["refused_rows"] == 1
    finally:
        slow.go_on.set()
    assert len(waiting.result(LONG).models) == 2


def test_an_idle_model_that_cannot_make_it_is_tried_now_and_then_only(
    engine: clipper.Engine,
) -> None:
    slow = Slow()
    application = two(engine, slow, caller_runs=False)
    warm(engine.model("large"))
    before = slow.calls
    predictions = [application.predict(row(0.6), deadline=0.12) for _ in range(20)]
    tried = slow.calls - before
    assert all(each.confidence == pytest.approx(0.6) for each in predictions)
    assert tried < 10
    assert [each.missing for each in predictions].count({}) >= 20 - tried


def test_an_answer_below_the_least_confidence_is_the_default(engine: clipper.Engine) -> None:
    application = two(engine, min_confidence=0.8, default="ask a human")
    prediction = application.predict(row(0.6))
    assert (prediction.output, prediction.why) == ("ask a human", Cause.LOW_CONFIDENCE)
    assert application.predict(row(0.95)).why is None


def test_the_confidence_may_be_an_output_of_its_own(engine: clipper.Engine) -> None:
    output = {"label": Tensor("int64"), "sure": Tensor("float64")}
    for name, label in {"small": 1, "large": 2}.items():
        engine.deploy(
            name, lambda x, label=label: {"label": np.full(len(x), label), "sure": x[:, 0]},
            input=Tensor("float64", (1,)), output=output, warmup=np.ones(1),
        )  # fmt: skip
    application = engine.create_application(
        "app", models=["small", "large"], policy=Cascade(0.5, of="sure"), slo=LONG
    )
    assert application.predict(np.array([0.7])).output["label"] == 1
    prediction = application.predict(np.array([0.3]))
    assert prediction.output["label"] == 2
    assert prediction.confidence == pytest.approx(0.3)


def test_feedback_judges_the_models_that_ran(engine: clipper.Engine) -> None:
    application = two(engine, loss=lambda output, label: float(output.argmax() != label))
    sure, unsure = application.predict(row(0.95)), application.predict(row(0.6))
    for prediction in (sure, unsure):
        assert application.feedback(prediction, label=0).name == "APPLIED"
    feedback = application.describe()["feedback"]
    assert feedback["judged"] == {"small": 2, "large": 1}
    assert feedback["mean_loss"] == {"small": 0.0, "large": 1.0}


def test_a_cascade_of_digits_is_as_good_as_the_large_model_and_asks_it_less(
    engine: clipper.Engine,
) -> None:
    images, truth = load_digits(return_X_y=True)
    images = images.astype(np.float32)
    quick = DecisionTreeClassifier(max_depth=8, min_samples_leaf=5, random_state=0)
    thorough = ExtraTreesClassifier(100, random_state=0)
    calls = {"small": 0, "large": 0}
    for name, model in {"small": quick, "large": thorough}.items():
        model.fit(images[:1200], truth[:1200])

        def classify(x: Floats, name: str = name, model: Any = model) -> Floats:
            calls[name] += len(x)
            return np.asarray(model.predict_proba(x), np.float32)

        engine.deploy(name, classify, input=Tensor("float32", (64,)),
                      output=Tensor("float32", (10,)), warmup=images[0])  # fmt: skip
    application = engine.create_application(
        "digits", models=["small", "large"], policy=Cascade(0.95), slo=LONG
    )
    calls.update(small=0, large=0)
    test, labels = images[1200:], truth[1200:]
    said = application.predict_many(test).output.argmax(axis=1)
    accuracy = np.mean(said == labels)
    alone = np.mean(quick.predict(test) == labels)
    assert accuracy > alone + 0.05
    assert accuracy > np.mean(thorough.predict(test) == labels) - 0.06
    assert calls["small"] == len(test)
    assert 0.1 * len(test) < calls["large"] < 0.9 * len(test)


@pytest.mark.parametrize("thresholds", [1.5, -0.1, "0.9", [0.9, 2.0], [], float("nan"), None])
def test_thresholds_out_of_range_are_refused(thresholds: Any) -> None:
    with pytest.raises(ValueError, match="thresholds"):
        Cascade(thresholds)


@pytest.mark.parametrize(
    ("models", "policy", "message"),
    [
        (["small"], Cascade(0.9), "at least two models"),
        (["small", "large"], Cascade([0.9, 0.8]), "2 thresholds for 2 models"),
        (["small", "large"], Cascade(0.9, of="sure"), "no tensor 'sure'"),
        (["small", "other"], Cascade(0.9), "do not fit into one application"),
        (["label", "label2"], Cascade(0.9), "vector of probabilities"),
    ],
)
def test_cascades_that_do_not_fit_their_models_are_refused(
    engine: clipper.Engine, models: list[str], policy: Cascade, message: str
) -> None:
    for name in ("small", "large"):
        deploy(engine, name, sure_of)
    engine.deploy("other", lambda x: x, input=ROW, output=ROW, warmup=row(1.0))
    for name in ("label", "label2"):
        engine.deploy(name, lambda x: np.zeros(len(x), np.int64), input=ROW,
                      output=Tensor("int64"), warmup=row(1.0))  # fmt: skip
    with pytest.raises(ValueError, match=message):
        engine.create_application("app", models=models, policy=policy, slo=LONG)
