"""Finds the better of two models from rewards, and turns to the other when that changes.

    python examples/bandit/bandit.py

Users click on what they like: 20 % of what the plain model shows, 60 % of what the bold one shows.
Half-way their taste turns round. Each policy asks one model a query and learns from the clicks.
"""

import sys

import numpy as np
from numpy.typing import NDArray

import clipper

QUERIES = 4000
CLICKS = {"plain": 0.2, "bold": 0.6}
POLICIES = (clipper.EpsilonGreedy(), clipper.Thompson(), clipper.Exp3())

Rows = NDArray[np.float32]


def show(rows: Rows) -> NDArray[np.int64]:
    """Stand in for a model: users see what it shows, the policies only whether they click."""
    return np.zeros(len(rows), np.int64)


def shares_of_bold(application: clipper.Application) -> list[float]:
    """Serve; return the bold model's share of the last thousand queries of each half."""
    random = np.random.default_rng(0)
    asked = []
    for query in range(QUERIES):
        prediction = application.predict(np.zeros(1, np.float32))
        (model,) = prediction.models
        asked.append(model == "bold")
        likes = CLICKS[model] if query < QUERIES // 2 else 0.8 - CLICKS[model]
        application.feedback(prediction, reward=float(random.random() < likes))
    half = QUERIES // 2
    return [float(np.mean(asked[end - 1000 : end])) for end in (half, QUERIES)]


def main() -> int:
    """Run each policy and print whom it asked."""
    with clipper.Engine() as engine:
        for name in CLICKS:
            engine.deploy(
                name, show,
                input=clipper.Tensor("float32", (1,)), output=clipper.Tensor("int64", ()),
            )  # fmt: skip
        for policy in POLICIES:
            name = type(policy).__name__
            application = engine.create_application(
                name, models=list(CLICKS), slo=None, policy=policy
            )
            before, after = shares_of_bold(application)
            print(f"{name}: bold for {before:.0%} while it is better, {after:.0%} after")
    return 0


if __name__ == "__main__":
    sys.exit(main())
