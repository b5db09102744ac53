"""Losses: what each says of outputs of every kind, and functions in their place."""

import gc
from typing import Any

import numpy as np
import pytest

import clipper
from clipper import FeedbackStatus, Loss

from .scene import XS, Judged, X, counts, judged


@pytest.mark.parametrize(
    ("outputs", "loss", "label", "expected"),
    [
        ((clipper.Tensor("int8"), 3), "zero_one", 3, 0.0),
        ((clipper.Tensor("int8"), 3), "zero_one", np.int64(4), 1.0),
        ((clipper.Tensor("bool"), True), "zero_one", True, 0.0),
        ((clipper.Tensor("float32"), 0.1), "zero_one", 0.1, 0.0),
        ((clipper.Tensor("float32", (3,)), [0, 1, 0]), "zero_one", 1, 0.0),
        ((clipper.Tensor("float32", (3,)), [0, 1, 0]), "zero_one", 2, 1.0),
        ((clipper.Tensor("float32", (3,)), [0, 1, 0]), "zero_one", [0, 1, 0], 0.0),
        ((clipper.Tensor("float64", (1,)), [4.0]), "zero_one", 4, 0.0),
        ((clipper.Tensor("int64", (2, 2)), [[1, 2], [3, 4]]), "zero_one", [[1, 2], [3, 5]], 1.0),
        ((clipper.Tensor("complex64"), 1 + 2j), "zero_one", 1 + 2j, 0.0),
        ((clipper.Tensor("float64"), 2.5), "absolute", 2, 0.5),
        ((clipper.Tensor("float16"), 2.5), "squared", 2, 0.25),
        ((clipper.Tensor("float32"), 12.0), "absolute", 2.0, 1.0),
        ((clipper.Tensor("float32"), 12.0), Loss("absolute", scale=100), 2.0, 0.1),
        ((clipper.Tensor("float32", (2,)), [1, 5]), Loss("squared", scale=10), [2, 2], 0.05),
        ((clipper.Tensor("uint8"), 200), Loss("absolute", scale=1000), 100, 0.1),
        ((clipper.Tensor("float32", (2,)), [0.9, 0.1]), "log", 1, 1 / 3),
        ((clipper.Tensor("float32"), 0.1), "log", True, 1 / 3),
        ((clipper.Tensor("float32", (2,)), [1, 0]), "log", 1, 1.0),
        ((clipper.Tensor("float32", (2,)), [0.5, 0.5]), Loss("log", scale=np.log(2)), 0, 1.0),
        ((clipper.Tensor("float32"), np.nan), "absolute", 1.0, 1.0),
        ((clipper.Tensor("int64"), 7), lambda output, label: abs(output - label) / 10, 5, 0.2),
    ],
)
def test_each_loss_is_what_it_says(
    engine: clipper.Engine,
    outputs: tuple[clipper.Tensor, Any],
    loss: Judged,
    label: Any,
    expected: float,
) -> None:
    app = judged(engine, outputs[0], loss, a=outputs[1])
    assert app.feedback(app.predict(X), label=label) is FeedbackStatus.APPLIED
    assert counts(app)["mean_loss"]["a"] == pytest.approx(expected, abs=1e-6)
    assert app.feedback_many(app.predict_many(XS), labels=[label] * 5).tolist() == [0] * 5
    assert app.feedback_for(X, label=label) is FeedbackStatus.APPLIED
    assert app.feedback_for_many(XS, labels=[label] * 5).tolist() == [0] * 5
    assert counts(app)["judged"]["a"] == 12
    assert counts(app)["mean_loss"]["a"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("loss", ["zero_one", lambda output, label: float(output != label)])
@pytest.mark.parametrize(
    ("kind", "answer", "wrong"), [("text", "größer", "groß"), ("bytes", b"\0a", b"")]
)
def test_text_and_bytes_are_judged(
    engine: clipper.Engine, kind: str, answer: Any, wrong: Any, loss: Judged
) -> None:
    engine.deploy(
        "a", lambda batch: [answer] * len(batch),
        input=clipper.Tensor("float32", (4,)), output=clipper.Tensor(kind),
    )  # fmt: skip
    app = engine.create_application("app", models=["a"], slo=None, loss=loss)
    assert app.feedback(app.predict(X), label=answer) is FeedbackStatus.APPLIED
    assert app.feedback(app.predict(X), label=wrong) is FeedbackStatus.APPLIED
    labels = [answer, wrong, answer, wrong, wrong]
    assert app.feedback_many(app.predict_many(XS), labels=labels).tolist() == [0] * 5
    assert app.feedback_for_many(XS, labels=labels).tolist() == [0] * 5
    assert counts(app)["mean_loss"]["a"] == pytest.approx(7 / 12)


def test_several_outputs_are_judged_together(engine: clipper.Engine) -> None:
    engine.deploy(
        "a",
        lambda batch: {"n": np.full(len(batch), 3, np.int64), "t": ["x"] * len(batch)},
        input=clipper.Tensor("float32", (4,)),
        output={"n": clipper.Tensor("int64"), "t": clipper.Tensor("text")},
    )
    app = engine.create_application("app", models=["a"], slo=None, loss="zero_one")
    app.feedback(app.predict(X), label={"n": 3, "t": "x"})
    labels = {"n": np.array([3, 3, 4, 3, 4]), "t": ["x", "y", "x", "x", "z"]}
    app.feedback_many(app.predict_many(XS), labels=labels)
    assert counts(app)["mean_loss"]["a"] == pytest.approx(3 / 6)
    with pytest.raises(ValueError, match=r"the label has \['n'\]"):
        app.feedback(app.predict(X), label={"n": 3})


@pytest.mark.parametrize("result", [np.nan, -0.1, 1.1, "much", None])
def test_what_a_function_returns_is_checked_and_nothing_learned(
    engine: clipper.Engine, result: Any
) -> None:
    results = iter([0.5, result, 0.5, 0.5])
    app = judged(engine, clipper.Tensor("int64"), lambda output, label: next(results), a=1, b=2)
    prediction = app.predict(X)
    with pytest.raises((ValueError, TypeError), match="the loss function's result is"):
        app.feedback(prediction, label=1)
    assert counts(app)["judged"] == {"a": 0, "b": 0}
    assert app.feedback(prediction, label=1) is FeedbackStatus.APPLIED


def test_an_exception_in_a_function_comes_out_and_nothing_is_learned(
    engine: clipper.Engine,
) -> None:
    def fail(output: Any, label: Any) -> float:
        if label == 3:
            raise KeyError("three")
        return 0.0

    app = judged(engine, clipper.Tensor("int64"), fail, a=1)
    many = app.predict_many(XS)
    with pytest.raises(KeyError, match="three"):
        app.feedback_many(many, labels=[1, 1, 1, 1, 3])
    assert counts(app)["applied"] == 0
    assert app.feedback_many(many, labels=[1] * 5).tolist() == [0] * 5


def test_a_function_may_ask_and_collect_garbage_itself(engine: clipper.Engine) -> None:
    def nested(output: Any, label: Any) -> float:
        gc.collect()
        return float(app.predict(X).output != label)

    with clipper.Engine(feedback_memory=4096) as small:  # each prediction pushes others out
        app = judged(small, clipper.Tensor("int64"), nested, a=1, b=1, c=1)
        for _ in range(20):
            assert app.feedback(app.predict(X), label=1) is FeedbackStatus.APPLIED
        assert counts(app)["mean_loss"]["a"] == 0.0


def test_a_function_is_not_called_where_nothing_can_be_learned(engine: clipper.Engine) -> None:
    calls = []

    def note(output: Any, label: Any) -> float:
        calls.append((output, label))
        return 0.0

    app = judged(engine, clipper.Tensor("int64"), note, a=1)
    prediction = app.predict(X)
    app.feedback(prediction, label=5)
    app.feedback(prediction, label=5)
    app.feedback("forged", label=5)
    app.feedback(app.predict(X), reward=1.0)
    assert calls == [(1, 5)]
