"""Applications whose models always answer the same, for feedback to judge."""

from collections.abc import Callable
from typing import Any

import numpy as np

import clipper
from clipper import Loss
from clipper.feedback import LossFunction, LossName

X = np.zeros(4, np.float32)
XS = np.zeros((5, 4), np.float32)
VOTE = clipper.MajorityVote()

Judged = Loss | LossName | LossFunction


def constant(value: Any) -> Callable[[Any], Any]:
    return lambda batch: np.stack([np.asarray(value)] * len(batch))


def deploy(engine: clipper.Engine, output: clipper.Tensor, **outputs: Any) -> None:
    """Deploy models that always answer the same."""
    for name, given in outputs.items():
        value = np.asarray(given, output.dtype)
        engine.deploy(
            name, constant(value), input=clipper.Tensor("float32", (4,)), output=output
        )  # fmt: skip


def judged(
    engine: clipper.Engine,
    output: clipper.Tensor,
    loss: Judged,
    name: str = "app",
    **outputs: Any,
) -> clipper.Application:
    deploy(engine, output, **outputs)
    return engine.create_application(name, models=list(outputs), slo=None, policy=VOTE, loss=loss)


def fail_from_now_on(engine: clipper.Engine, name: str) -> None:
    def fail(batch: Any) -> Any:
        raise ZeroDivisionError

    specs = {"input": clipper.Tensor("float32", (4,)), "output": clipper.Tensor("int64")}
    engine.deploy(name, fail, **specs)


def counts(app: clipper.Application) -> dict[str, Any]:
    feedback: dict[str, Any] = app.describe()["feedback"]
    return feedback
