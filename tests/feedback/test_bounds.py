"""Feedback has bounds that are told, and mistakes with it are refused with what to give."""

import threading
from typing import Any

import numpy as np
import pytest

import clipper
from clipper import FeedbackStatus, Loss

from .scene import XS, X, constant, counts, deploy, judged

# ---- bounds ------------------------------------------------------------------------------------


def test_feedback_expires_by_memory_and_says_how_much_there_is() -> None:
    with clipper.Engine(feedback_memory="64KiB") as engine:
        app = judged(engine, clipper.Tensor("float32", (64,)), "zero_one", a=np.ones(64))
        predictions = [app.predict(X) for _ in range(1000)]
        kept = engine.describe()["feedback"]
        assert kept["memory"] == 64 << 10
        assert 0 < kept["bytes"] <= 64 << 10
        assert 64 < kept["records"] < 256
        statuses = app.feedback_many(predictions, labels=np.zeros(1000, np.int64))
        lost = 1000 - kept["records"]
        assert statuses.tolist() == [2] * lost + [0] * kept["records"]
        assert counts(app)["expired"] == lost
        wide = app.predict_many(np.zeros((500, 4), np.float32))  # more than there is memory for
        assert (app.feedback_many(wide, labels=np.zeros(500, np.int64)) == 2).all()
        assert app.feedback(wide[7].query_id, label=0) is FeedbackStatus.EXPIRED


def test_feedback_expires_by_time() -> None:
    with clipper.Engine(feedback_window=0.05) as engine:
        app = judged(engine, clipper.Tensor("int64"), "zero_one", a=1)
        assert engine.describe()["feedback"]["window"] == pytest.approx(0.05)
        prediction = app.predict(X)
        threading.Event().wait(0.06)
        assert app.feedback(prediction, label=1) is FeedbackStatus.EXPIRED
        assert app.feedback(prediction.query_id, label=1) is FeedbackStatus.EXPIRED
        assert app.feedback_for(X, label=1) is FeedbackStatus.APPLIED


@pytest.mark.parametrize("options", [{"feedback_memory": "much"}, {"feedback_window": 0.0}])
def test_bounds_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give"):
        clipper.Engine(**options)


# ---- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ({}, ValueError, "nothing was given: give exactly one of label, reward and loss"),
        ({"label": 1, "loss": 0.5}, ValueError, "label and loss was given"),
        ({"loss": np.nan}, ValueError, "loss is nan: give a number from 0 to 1"),
        ({"loss": 1.5}, ValueError, "loss is 1.5"),
        ({"reward": -1}, ValueError, "reward is -1"),
        ({"reward": "good"}, TypeError, "reward is 'good'"),
        ({"label": "one"}, TypeError, "a label of <U3 was given"),
        ({"label": 1.5}, TypeError, "outputs are int64"),
        ({"label": [1, 2]}, ValueError, r"a label has shape \(2,\), but outputs have shape \(\)"),
    ],
)
def test_mistakes_are_raised_and_change_nothing(
    votes: clipper.Application, said: dict[str, Any], error: type[Exception], message: str
) -> None:
    prediction = votes.predict(X)
    with pytest.raises(error, match=message):
        votes.feedback(prediction, **said)
    assert counts(votes)["judged"] == {"a": 0, "b": 0, "c": 0, "d": 0}
    assert votes.feedback(prediction, label=1) is FeedbackStatus.APPLIED


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({}, ValueError),
        ({"labels": [1] * 4}, ValueError),
        ({"labels": 1}, TypeError),
        ({"labels": ["x"] * 5}, TypeError),
        ({"losses": [0.5] * 6}, ValueError),
        ({"losses": [0.5] * 4 + [np.nan]}, ValueError),
        ({"losses": [[0.5]] * 5}, ValueError),
        ({"rewards": ["x"] * 5}, TypeError),
        ({"rewards": [1] * 5, "labels": [1] * 5}, ValueError),
    ],
)
def test_mistakes_with_several_are_raised_and_change_nothing(
    votes: clipper.Application, said: dict[str, Any], error: type[Exception]
) -> None:
    many = votes.predict_many(XS)
    for predictions in (many, list(many)):
        with pytest.raises(error):
            votes.feedback_many(predictions, **said)
    assert counts(votes)["judged"]["a"] == 0
    assert votes.feedback_many(many, labels=[1] * 5).tolist() == [0] * 5


def test_what_names_something_else_is_refused(votes: clipper.Application) -> None:
    many = votes.predict_many(XS)
    wrong: list[Any] = [many, many.query_id, 7, b"id", None]
    for one in wrong:
        with pytest.raises((TypeError, ValueError), match=r"feedback_many|give a Prediction"):
            votes.feedback(one, label=1)
    wrong_many: list[Any] = [many[0], many[0].query_id, 7, None]
    for one in wrong_many:
        with pytest.raises((TypeError, ValueError), match=r"a single row|give Predictions"):
            votes.feedback_many(one, labels=[1])
    with pytest.raises(ValueError, match="5 rows were given, but feedback for 2"):
        votes.feedback_for_many(XS, labels=[1, 2])
    with pytest.raises(ValueError, match="no rows"):
        votes.feedback_for_many(XS[:0], labels=[])


def test_applications_that_learn_nothing_say_so(engine: clipper.Engine) -> None:
    deploy(engine, clipper.Tensor("int64"), a=1)
    model = engine.model("a")
    prediction = model.predict(X)
    for give in (
        lambda: model.feedback(prediction, label=1),
        lambda: model.feedback_many([prediction], labels=[1]),
        lambda: model.feedback_for(X, label=1),
        lambda: model.feedback_for_many(XS, labels=[1] * 5),
    ):
        with pytest.raises(ValueError, match=r"takes no feedback.*create it with"):
            give()
    assert engine.describe()["feedback"]["records"] == 0


def test_labels_that_outputs_cannot_be_are_refused(engine: clipper.Engine) -> None:
    narrow = judged(engine, clipper.Tensor("int8"), "zero_one", "narrow", n=1)
    with pytest.raises(ValueError, match="int8 cannot hold it: 300"):
        narrow.feedback(narrow.predict(X), label=300)
    classes = judged(engine, clipper.Tensor("float32", (3,)), "log", "classes", c=np.ones(3) / 3)
    for label in (-1, 3):
        with pytest.raises(ValueError, match=f"class {label}, but outputs tell classes 0 to 2"):
            classes.feedback(classes.predict(X), label=label)
    with pytest.raises(ValueError, match="takes the integers of classes"):
        classes.feedback(classes.predict(X), label=[0, 0, 1])
    with pytest.raises(TypeError, match="takes integers"):
        classes.feedback(classes.predict(X), label=1.0)
    real = judged(engine, clipper.Tensor("float32"), "absolute", "real", r=1.0)
    with pytest.raises(ValueError, match="not finite"):
        real.feedback(real.predict(X), label=np.nan)


@pytest.mark.parametrize(
    ("output", "loss", "error"),
    [
        (clipper.Tensor("text"), "absolute", ValueError),
        (clipper.Tensor("int64", (None,)), "squared", ValueError),
        (clipper.Tensor("complex64"), "absolute", ValueError),
        (clipper.Tensor("int64"), "log", ValueError),
        (clipper.Tensor("int64"), "hinge", ValueError),
        (clipper.Tensor("int64"), 7, TypeError),
    ],
)
def test_losses_that_do_not_fit_are_refused_and_leave_no_application(
    engine: clipper.Engine, output: clipper.Tensor, loss: Any, error: type[Exception]
) -> None:
    def ragged(batch: Any) -> Any:
        return ["x"] * len(batch) if output.kind == "text" else [np.zeros(1, np.int64)] * len(batch)

    call = ragged if output.is_ragged else constant(np.zeros(output.item_shape, output.dtype))
    engine.deploy("a", call, input=clipper.Tensor("float32", (4,)), output=output)
    with pytest.raises(error, match="loss"):
        engine.create_application("app", models=["a"], slo=None, loss=loss)
    engine.create_application("app", models=["a"], slo=None)


@pytest.mark.parametrize("scale", [0, -1, np.inf, np.nan])
def test_scales_that_mean_nothing_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="the scale of a loss is"):
        Loss("absolute", scale=scale)


def test_a_closed_engine_takes_no_feedback(votes: clipper.Application) -> None:
    prediction = votes.predict(X)
    votes._engine.close()
    with pytest.raises(clipper.EngineClosedError):
        votes.feedback(prediction, label=1)
    with pytest.raises(clipper.EngineClosedError):
        votes.feedback_for(X, label=1)
