"""Tries a new model on a twentieth of the queries, and takes it back when it fails too often.

    python examples/canary/canary.py

The first candidate is sound. The second cannot read one row in three: the canary notices, and from
then on the old model answers everything, without anybody having been woken up.
"""

import sys

import numpy as np
from numpy.typing import NDArray

import clipper

QUERIES = 6000
TENTH = QUERIES // 10

Rows = NDArray[np.float32]


def old(rows: Rows) -> Rows:
    """Stand in for what serves today."""
    return np.asarray(rows.sum(axis=1))


def sound(rows: Rows) -> Rows:
    """Stand in for a new model that works."""
    return np.asarray(rows.sum(axis=1) + 0.001)


def broken(rows: Rows) -> Rows:
    """Stand in for a new model that some rows make fail."""
    if (rows[:, 0] < -0.43).any():
        raise ValueError("cannot read this row")
    return np.asarray(rows.sum(axis=1))


def serve(application: clipper.Application) -> list[str]:
    """Ask for every row; return who was asked for it."""
    asked = []
    for row in np.random.default_rng(0).standard_normal((QUERIES, 4), dtype=np.float32):
        prediction = application.predict(row)
        asked += [*prediction.models, *prediction.missing]
    return asked


def main() -> int:
    """Try both candidates."""
    with clipper.Engine() as engine:
        row, number = clipper.Tensor("float32", (4,)), clipper.Tensor("float32", ())
        for model in (old, sound, broken):
            engine.deploy(model.__name__, model, input=row, output=number)
        for candidate in ("sound", "broken"):
            application = engine.create_application(
                f"with-{candidate}",
                models=["old", candidate],
                policy=clipper.Canary(candidate, share=0.05, min_count=30),
                slo=None,
                default=np.float32("nan"),  # rather than an exception, for a row that fails
            )
            asked = serve(application)
            first, last = (a.count(candidate) for a in (asked[:TENTH], asked[-TENTH:]))
            print(f"{candidate}: {first} of the first {TENTH} queries, {last} of the last")
    return 0


if __name__ == "__main__":
    sys.exit(main())
