"""Learns for each group of users which model is right for it.

    python examples/personalised/personalised.py

The users of eight dialects name the same things differently, and there is a model for each dialect,
but nobody tells which user speaks which. With the dialect's users as the context, the policy finds
out from feedback; without, it finds the model that is right most often for all of them. This is
figure 10 of Crankshaw et al., "Clipper", NSDI 2017, with groups that are made up.
"""

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import clipper

DIALECTS = 8
QUERIES = 4000
INPUT, OUTPUT = clipper.Tensor("float32", (4,)), clipper.Tensor("int64", ())

Rows = NDArray[np.float32]
Labels = NDArray[np.int64]


def meaning(rows: Rows) -> Labels:
    """Tell the thing that a row shows, from 0 to 3."""
    return np.asarray(rows.argmax(axis=1), np.int64)


def model_of(dialect: int) -> Callable[[Rows], Labels]:
    """Make a model that has learned how one dialect names things."""
    names = np.random.default_rng(dialect).permutation(4)

    def say(rows: Rows) -> Labels:
        return np.asarray(names[meaning(rows)], np.int64)

    return say


def errors(application: clipper.Application, *, by_context: bool) -> int:
    """Ask, and tell after each answer what would have been right; return how many were wrong."""
    models = [model_of(dialect) for dialect in range(DIALECTS)]
    random = np.random.default_rng(0)
    rows = random.standard_normal((QUERIES, 4), dtype=np.float32)
    speakers = random.integers(0, DIALECTS, QUERIES)
    wrong = 0
    for row, dialect in zip(rows, speakers, strict=True):
        context = f"village-{dialect}" if by_context else None
        label = int(models[dialect](row[None])[0])
        prediction = application.predict(row, context=context)
        application.feedback(prediction, label=label)
        wrong += int(prediction.output != label)
    return wrong


def compare() -> dict[str, int]:
    """Return the wrong answers with a state for each context, with a shared one, and without."""
    names = [f"dialect-{dialect}" for dialect in range(DIALECTS)]
    with clipper.Engine() as engine:
        for dialect, name in enumerate(names):
            engine.deploy(name, model_of(dialect), input=INPUT, output=OUTPUT)
        policies: dict[str, clipper.Exp4 | clipper.WeightedEnsemble] = {
            "per context": clipper.Exp4(),
            "shared": clipper.Exp4(),
            "static": clipper.WeightedEnsemble(dict.fromkeys(names, 1.0)),
        }
        return {
            name: errors(
                engine.create_application(
                    name, models=names, slo=None, policy=policy, loss="zero_one"
                ),
                by_context=name == "per context",
            )
            for name, policy in policies.items()
        }


def main() -> int:
    """Run the comparison."""
    for name, wrong in compare().items():
        print(f"{name}: {wrong} of {QUERIES} wrong")
    return 0


if __name__ == "__main__":
    sys.exit(main())
