"""Rows that ran twice because a worker died are answered, compared and learned from once."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipper
from clipper import FeedbackStatus, Isolated, Tensor

MODELS = '''
"""Models of the tests, as a worker imports them."""
import os


def dies_once():
    """Dies in the first batch that holds 666, and answers it the next time."""
    def model(batch):
        mark = os.environ["DEATH_MARK"]
        if (batch == 666).any() and not os.path.exists(mark):
            open(mark, "w").close()
            os._exit(9)
        return batch * 10
    return model
'''

NUMBER = Tensor("float64", ())
ROWS = [1.0, 2.0, 666.0, 3.0, 4.0]


class Mortal:
    """Deploys a model whose worker dies once, at 666."""

    def __init__(self, engine: clipper.Engine, folder: Path) -> None:
        (folder / "mortal_models.py").write_text(MODELS)
        self.engine = engine
        self.folder = folder
        self.mark = folder / "mark"

    def deploy(self, name: str) -> None:
        where = Isolated(paths=(self.folder,), env={"DEATH_MARK": str(self.mark)})
        self.engine.deploy(
            name, "mortal_models:dies_once", input=NUMBER, output=NUMBER, where=where
        )

    def check_died_once(self, name: str) -> None:
        assert self.mark.exists()
        model = self.engine.describe()["models"][name]
        assert model["versions"]["1"]["workers"][0]["restarts"] == 1


@pytest.fixture
def mortal(engine: clipper.Engine, tmp_path: Path) -> Mortal:
    return Mortal(engine, tmp_path)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def times(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda batch: batch * factor


def shadow(app: clipper.Application, name: str) -> dict[str, Any]:
    described: dict[str, Any] = app.describe()["shadows"][name]
    return described


def test_who_answers_dies_beside_a_shadow_and_is_judged_once(
    engine: clipper.Engine, mortal: Mortal
) -> None:
    mortal.deploy("m")
    engine.deploy("other", times(10), input=NUMBER, output=NUMBER)
    engine.deploy("behind", times(10), input=NUMBER, output=NUMBER)
    app = engine.create_application(
        "app",
        models=["m", "other", "behind"],
        slo=20.0,
        policy=clipper.Shadow(of=clipper.Exp4(eta=1.0), models=["behind"]),
        loss="zero_one",
    )
    futures = [app.submit(row, context="ada") for row in ROWS]
    predictions = [future.result(timeout=30) for future in futures]
    assert [prediction.output for prediction in predictions] == [10 * row for row in ROWS]
    assert all(prediction.missing == {} for prediction in predictions)
    mortal.check_died_once("m")
    for prediction, row in zip(predictions, ROWS, strict=True):
        assert app.feedback(prediction, label=10 * row) is FeedbackStatus.APPLIED
        assert app.feedback(prediction, label=10 * row) is FeedbackStatus.DUPLICATE
    said = app.describe()["feedback"]
    assert said["judged"] == {"m": len(ROWS), "other": len(ROWS)}
    assert said["mean_loss"] == {"m": 0.0, "other": 0.0}
    # Dying was no failure, as the answer came.
    assert app.policy_state("ada")["m"].weight == pytest.approx(0.5)
    until(lambda: shadow(app, "behind")["compared"] == len(ROWS))
    assert shadow(app, "behind")["agreed"] == len(ROWS)


def test_a_shadow_that_dies_is_compared_when_it_comes_and_nobody_notices(
    engine: clipper.Engine, mortal: Mortal
) -> None:
    engine.deploy("old", times(10), input=NUMBER, output=NUMBER)
    mortal.deploy("new")
    app = engine.create_application(
        "app",
        models=["old", "new"],
        slo=20.0,
        policy=clipper.Shadow(of="old", models=["new"]),
        loss="zero_one",
    )
    predictions = [app.predict(row) for row in ROWS]
    assert [prediction.output for prediction in predictions] == [10 * row for row in ROWS]
    for prediction in predictions:
        assert app.feedback(prediction, label=prediction.output) is FeedbackStatus.APPLIED
    until(lambda: shadow(app, "new")["compared"] == len(ROWS))
    assert shadow(app, "new")["causes"] == {}
    assert shadow(app, "new")["agreed"] == len(ROWS)
    mortal.check_died_once("new")
    assert app.describe()["feedback"]["judged"] == {"old": len(ROWS)}


def test_a_stage_that_dies_is_judged_once_as_are_those_behind_it(
    engine: clipper.Engine, mortal: Mortal
) -> None:
    mortal.deploy("first")
    engine.deploy("second", times(2), input=NUMBER, output=NUMBER)
    engine.deploy("behind", times(20), input=NUMBER, output=NUMBER)
    stages = clipper.Pipeline({"first": clipper.INPUT, "second": "first"})
    app = engine.create_application(
        "app",
        models=["first", "second", "behind"],
        slo=20.0,
        policy=clipper.Shadow(of=stages, models=["behind"]),
        default=None,
    )
    many = app.predict_many(np.array(ROWS))
    assert many.output.tolist() == [20 * row for row in ROWS]
    mortal.check_died_once("first")
    stage_counts = app.describe()["stages"]
    assert stage_counts["first"] == {"ran": len(ROWS), "skipped": 0, "failed": 0}
    assert stage_counts["second"] == {"ran": len(ROWS), "skipped": 0, "failed": 0}
    until(lambda: shadow(app, "behind")["compared"] == len(ROWS))
    assert shadow(app, "behind")["agreed"] == len(ROWS)
    assert engine.describe()["open_queries"] == 0


def test_who_dies_under_a_bandit_and_never_answers_has_failed_once(
    engine: clipper.Engine, mortal: Mortal
) -> None:
    mortal.deploy("m")
    engine.deploy("other", times(10), input=NUMBER, output=NUMBER)
    app = engine.create_application(
        "app",
        models=["m", "other"],
        slo=20.0,
        policy=clipper.EpsilonGreedy(epsilon=1.0),
        default=-1.0,
    )
    asked = {"m": 0, "other": 0}
    for _ in range(40):
        prediction = app.predict(1.0)
        asked[next(iter(prediction.models))] += 1
        assert app.feedback(prediction, loss=0.5) is FeedbackStatus.APPLIED
    # No time for a new worker: the row ends with the cause, and counts as a failure without any
    # feedback; feedback on it teaches nothing.
    prediction = app.predict(666.0, deadline=0.5)
    while not mortal.mark.exists():
        asked["other"] += 1
        app.feedback(prediction, loss=0.5)
        prediction = app.predict(666.0, deadline=0.5)
    state = app.policy_state()
    if prediction.is_default:
        assert prediction.why in (clipper.Cause.CRASH, clipper.Cause.DEADLINE)
        assert app.feedback(prediction, loss=0.0) is FeedbackStatus.UNATTRIBUTED
        assert state["m"].observed == asked["m"] + 1
        assert state["m"].loss == pytest.approx((asked["m"] / 2 + 1) / (asked["m"] + 1))
    else:  # the new worker was quick: it answered, and nothing was said yet
        assert prediction.output == 6660
        assert state["m"].observed == asked["m"]
    assert state["other"].observed == asked["other"]
    assert os.path.exists(mortal.mark)
