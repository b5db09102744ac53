"""What choosing among models adds to a prediction: policies and contexts against one model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import clipper

MODELS = ("a", "b", "c", "d")
ROW: NDArray[np.float32] = np.ones(4, np.float32)
CHOOSING = {"group": "one prediction of one of four models that cost nothing"}
ENSEMBLE = {"group": "one prediction of four models that cost nothing"}
CONTEXTS = [f"user-{i}" for i in range(1000)]


class _FirstOfPython:
    """The least that a Python policy can do."""

    def select(self, models: Sequence[str], context: Any, state: Any) -> str:
        return "a"

    def combine(self, answers: Mapping[str, Any], state: Any) -> tuple[Any, float]:
        return answers["a"], 1.0

    def observe(self, observations: Sequence[Any], state: Any) -> None:
        pass


def _application(
    engine: clipper.Engine, policy: Any, models: Sequence[str] = MODELS
) -> clipper.Application:
    def first(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return batch[:, 0]

    for name in models:
        engine.deploy(name, first, warmup=ROW)
    return engine.create_application("app", models=models, slo=0.1, policy=policy)


def _measure(benchmark: Any, application: clipper.Application, *, contexts: bool = False) -> None:
    """Ask a thousand times a round, as the differences are small."""

    def ask() -> None:
        for context in CONTEXTS:
            application.predict(ROW, context=context if contexts else None)

    benchmark.pedantic(ask, rounds=30, warmup_rounds=3)
    described = application.describe()
    assert described["rows"] == described["answered"]


@pytest.mark.benchmark(**CHOOSING)
def bench_no_policy(benchmark: Any, engine: clipper.Engine) -> None:
    """The baseline: an application of one model, which there is nothing to choose of."""
    _measure(benchmark, _application(engine, None, ("a",)))


@pytest.mark.benchmark(**CHOOSING)
@pytest.mark.parametrize("policy", [clipper.Exp3(), clipper.Ucb1()], ids=["Exp3", "Ucb1"])
def bench_policy(benchmark: Any, engine: clipper.Engine, policy: Any) -> None:
    """A policy alone."""
    _measure(benchmark, _application(engine, policy))


@pytest.mark.benchmark(**CHOOSING)
@pytest.mark.parametrize("policy", [clipper.Exp3(), clipper.Ucb1()], ids=["Exp3", "Ucb1"])
def bench_policy_and_context(benchmark: Any, engine: clipper.Engine, policy: Any) -> None:
    """A policy with a state for each of a thousand contexts."""
    _measure(benchmark, _application(engine, policy), contexts=True)


@pytest.mark.benchmark(**CHOOSING)
def bench_python_policy(benchmark: Any, engine: clipper.Engine) -> None:
    """A policy of Python that does nothing."""
    _measure(benchmark, _application(engine, _FirstOfPython()))


@pytest.mark.benchmark(**ENSEMBLE)
@pytest.mark.parametrize(
    "policy", [clipper.MajorityVote(), clipper.Exp4()], ids=["MajorityVote", "Exp4"]
)
def bench_ensemble(benchmark: Any, engine: clipper.Engine, policy: Any) -> None:
    """All models asked, their answers combined."""
    _measure(benchmark, _application(engine, policy))
