"""Compares a new model with the old one on a tenth of the users, by what they say of the answers.

    python examples/ab_test/ab_test.py

Users stay with the model that they got first, as the context of a query decides. Feedback comes
later, by the query's id: that is a string, which can travel through a web page or a log.
"""

import math
import sys

import numpy as np
from numpy.typing import NDArray

import clipper

USERS = 4000
MODELS = ("old", "new")


def old(batch: NDArray[np.float32]) -> NDArray[np.int64]:
    """Stand in for what serves today: it looks at the first number only."""
    return np.asarray(batch[:, 0] > 0.0, np.int64)


def new(batch: NDArray[np.float32]) -> NDArray[np.int64]:
    """Stand in for what may serve tomorrow: it looks at all of them."""
    return np.asarray(batch.sum(axis=1) > 0.0, np.int64)


def serve(application: clipper.Application) -> None:
    """Answer every user once; half a day later each says what would have been right."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((USERS, 4), dtype=np.float32)
    noise = random.standard_normal(USERS, dtype=np.float32)
    right = np.asarray(rows.sum(axis=1) + noise > 0.0, np.int64)
    ids = [
        application.predict(row, context=f"user-{user}").query_id for user, row in enumerate(rows)
    ]
    statuses = application.feedback_many(ids, labels=right)
    assert (statuses == clipper.FeedbackStatus.APPLIED).all()


def verdict(judged: dict[str, int], loss: dict[str, float]) -> str:
    """Say which model is better, if the difference is more than two standard errors."""
    difference = loss["old"] - loss["new"]
    error = math.sqrt(sum(loss[name] * (1 - loss[name]) / judged[name] for name in MODELS))
    if abs(difference) < 2 * error:
        return "too close to call: ask more users"
    return f"{'new' if difference > 0 else 'old'} is better"


def main() -> int:
    """Run the test and print what came of it."""
    with clipper.Engine() as engine:
        for name, model in (("old", old), ("new", new)):
            engine.deploy(name, model, warmup=np.zeros(4, np.float32))
        split = clipper.WeightedSplit({"old": 0.9, "new": 0.1})
        application = engine.create_application(
            "greeting", models=MODELS, slo=0.1, policy=split, loss="zero_one"
        )
        serve(application)
        seen = application.describe()["feedback"]
    for name in MODELS:
        users, loss = seen["judged"][name], seen["mean_loss"][name]
        print(f"{name} {users} users, wrong for {loss:.3f}")
    print(verdict(seen["judged"], seen["mean_loss"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
