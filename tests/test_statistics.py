"""Statistics of a model's outputs and losses over time, and the alarm when they change."""

import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import clipper

ROWS = 64  # of a batch; 16 of them are looked at
WINDOW = 63  # batches


@pytest.fixture
def quick_engine() -> Iterator[clipper.Engine]:
    """An engine whose windows last as long as 1,000 rows take."""
    with clipper.Engine(statistics_window=1e-6) as engine:
        yield engine


def ask(model: clipper.Model, low: int, high: int, batches: int) -> None:
    for batch in range(batches):
        model.predict_many(np.arange(batch, batch + ROWS) % (high - low) + low)


def deploy_identity(engine: clipper.Engine, **options: Any) -> clipper.Model:
    number = clipper.Tensor("int64", ())
    return engine.deploy("m", lambda batch: batch, input=number, output=number, **options)


def records_of_drift(caplog: pytest.LogCaptureFixture) -> list[str]:
    messages = [r.getMessage() for r in caplog.records if r.name == "clipper"]
    return [message for message in messages if "drifts" in message]


def wait_for_drift(caplog: pytest.LogCaptureFixture, count: int) -> list[str]:
    until = time.monotonic() + 30
    while len(records_of_drift(caplog)) < count and time.monotonic() < until:
        time.sleep(0.005)
    return records_of_drift(caplog)


def test_labels_are_counted(engine: clipper.Engine) -> None:
    model = deploy_identity(engine)
    for label in (3, 3, -5, 3):
        model.predict(label)
    seen = model.describe()["statistics"]
    assert seen["kind"] == "labels"
    (window,) = seen["windows"]
    assert window["rows"] == 4
    assert window["labels"] == {3: 3, -5: 1}
    assert window["mean"] is None
    assert 0 <= window["seconds"] < 60
    assert seen["reference"]["complete"] is False
    json.dumps(seen)


def test_labels_without_a_sign_keep_their_size(engine: clipper.Engine) -> None:
    number = clipper.Tensor("uint64", ())
    model = engine.deploy("m", lambda batch: batch, input=number, output=number)
    model.predict(2**64 - 1)
    assert model.describe()["statistics"]["windows"][0]["labels"] == {2**64 - 1: 1}


def test_values_have_a_mean_and_a_histogram(engine: clipper.Engine) -> None:
    number = clipper.Tensor("float64", ())
    model = engine.deploy("m", lambda batch: batch, input=number, output=number)
    given = np.linspace(-1.0, 3.0, 600)
    for value in given:
        model.predict(value)
    model.predict(np.nan)
    (window,) = model.describe()["statistics"]["windows"]
    assert window["mean"] == pytest.approx(1.0)
    assert window["std"] == pytest.approx(given.std())
    assert (window["min"], window["max"]) == (-1.0, 3.0)
    assert sum(window["histogram"]) == 601
    assert window["histogram"][-1] == 1


def test_the_largest_of_a_vector_is_its_label_and_its_confidence(engine: clipper.Engine) -> None:
    row = clipper.Tensor("float32", (3,))
    model = engine.deploy("m", lambda batch: batch, input=row, output=row)
    model.predict(np.array([0.1, 0.7, 0.2], np.float32))
    model.predict(np.array([0.0, 0.9, 0.1], np.float32))
    seen = model.describe()["statistics"]
    assert seen["kind"] == "scores"
    assert seen["windows"][0]["labels"] == {1: 2}
    assert seen["windows"][0]["mean"] == pytest.approx(0.8)


def test_of_several_outputs_the_first_that_can_be_counted_is_named(engine: clipper.Engine) -> None:
    model = engine.deploy(
        "m",
        lambda x: {"map": np.zeros((len(x), 2, 2)), "label": x},
        input={"x": clipper.Tensor("int64", ())},
        output={"map": clipper.Tensor("float64", (2, 2)), "label": clipper.Tensor("int64", ())},
    )
    model.predict({"x": 7})
    seen = model.describe()["statistics"]
    assert seen["output"] == "label"
    assert seen["windows"][0]["labels"] == {7: 1}


def test_failed_batches_are_not_counted(engine: clipper.Engine) -> None:
    def fail(batch: Any) -> Any:
        raise RuntimeError("no")

    number = clipper.Tensor("int64", ())
    model = engine.deploy("m", fail, input=number, output=number, default=0)
    assert model.predict(1).is_default
    assert model.describe()["statistics"]["windows"] == []


def test_a_drift_of_labels_is_logged_once(
    quick_engine: clipper.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "clipper")
    model = deploy_identity(quick_engine)
    ask(model, 0, 10, 12 * WINDOW)
    seen = model.describe()["statistics"]
    assert seen["reference"]["complete"]
    assert not seen["alarms"]["labels"]["up"]
    assert records_of_drift(caplog) == []
    ask(model, 5, 15, 3 * WINDOW)
    (message,) = wait_for_drift(caplog, 1)
    assert "model m, version 1, drifts: the labels" in message
    alarm = model.describe()["statistics"]["alarms"]["labels"]
    assert alarm["up"]
    assert alarm["raised"] == 1
    assert alarm["psi"] > alarm["psi_bound"]
    ask(model, 5, 15, 3 * WINDOW)
    assert len(records_of_drift(caplog)) == 1


def test_after_a_reset_what_comes_is_usual(
    quick_engine: clipper.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "clipper")
    model = deploy_identity(quick_engine)
    ask(model, 0, 10, 11 * WINDOW)
    ask(model, 5, 15, 2 * WINDOW)
    assert len(wait_for_drift(caplog, 1)) == 1
    model.reset_statistics()
    assert model.describe()["statistics"]["windows"] == []
    ask(model, 5, 15, 12 * WINDOW)
    seen = model.describe()["statistics"]
    assert seen["reference"]["complete"]
    assert not seen["alarms"]["labels"]["up"]
    assert len(records_of_drift(caplog)) == 1


def test_a_rise_of_the_loss_that_feedback_tells_is_logged_once(
    engine: clipper.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "clipper")
    model = deploy_identity(engine)
    app = engine.create_application("a", models=["m"], slo=None, loss="zero_one")

    def tell(wrong: int, rows: int) -> None:
        given = app.predict_many(np.ones(rows, np.int64))
        labels = np.where(np.arange(rows) % 10 < wrong, 0, 1)
        app.feedback_many(given, labels=labels)

    for _ in range(10):
        tell(1, 100)
    seen = model.describe()["statistics"]
    assert seen["losses"] == 1000
    assert seen["mean_loss"] == pytest.approx(0.1)
    assert seen["windows"][0]["loss"] == pytest.approx(0.1)
    assert not seen["alarms"]["loss"]["up"]
    for _ in range(5):
        tell(9, 100)
    (message,) = wait_for_drift(caplog, 1)
    assert "model m, version 1, drifts: its loss has risen" in message
    assert model.describe()["statistics"]["alarms"]["loss"]["up"]


def test_feedback_counts_for_the_version_that_answered(engine: clipper.Engine) -> None:
    model = deploy_identity(engine)
    app = engine.create_application("a", models=["m"], slo=None, loss="zero_one")
    prediction = app.predict(1)
    deploy_identity(engine, version=2)
    app.feedback(prediction, label=0)
    app.feedback_for(1, label=1)
    assert model.describe()["statistics"]["losses"] == 1
    assert model.describe()["statistics"]["mean_loss"] == 0.0
    model.rollback()
    assert model.describe()["statistics"]["mean_loss"] == 1.0


def test_each_version_has_statistics_of_its_own(engine: clipper.Engine) -> None:
    model = deploy_identity(engine)
    model.predict(1)
    deploy_identity(engine, version=2)
    assert model.describe()["statistics"]["windows"] == []
    model.rollback()
    assert model.describe()["statistics"]["windows"][0]["labels"] == {1: 1}
    engine.undeploy("m")
    assert model.describe()["statistics"] is None
    with pytest.raises(clipper.ClipperError, match="deploy it first"):
        model.reset_statistics()


@pytest.mark.parametrize("window", [0, -1.0, float("nan"), 1e10])
def test_a_window_of_no_use_is_refused(window: float) -> None:
    with pytest.raises(ValueError, match="statistics_window"):
        clipper.Engine(statistics_window=window)
