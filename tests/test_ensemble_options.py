"""Ensembles whose answer a function makes, and that ask fewer models under load."""

from typing import Any

import numpy as np
import pytest

import clipper

X = np.zeros(1, np.float32)
SCORES = clipper.Tensor("float32", (2,))


@pytest.fixture
def three(engine: clipper.Engine) -> clipper.Engine:
    """Deploy models that answer [1, 0], [2, 0] and, if it does not fail, [6, 0]."""
    engine.fails = False  # type: ignore[attr-defined]
    for name, score in (("a", 1.0), ("b", 2.0), ("c", 6.0)):

        def model(batch: np.ndarray, name: str = name, score: float = score) -> np.ndarray:
            if name == "c" and engine.fails:  # type: ignore[attr-defined]
                raise RuntimeError("broken")
            return np.tile(np.array([score, 0], np.float32), (len(batch), 1))

        engine.deploy(name, model, input=clipper.Tensor("float32", (1,)), output=SCORES)
    return engine


def create(engine: clipper.Engine, policy: Any, **options: Any) -> clipper.Application:
    return engine.create_application(
        "app", models=["a", "b", "c"], slo=10.0, policy=policy, default=-1, **options
    )


def median(outputs: dict[str, Any]) -> Any:
    return np.median(list(outputs.values()), axis=0).astype(np.float32)


def test_a_function_makes_the_answer_of_any_ensemble(three: clipper.Engine) -> None:
    for policy in (
        clipper.MajorityVote(combine=median),
        clipper.WeightedEnsemble({"a": 1, "b": 1, "c": 2}, combine=median),
        clipper.Exp4(combine=median),
    ):
        app = three.create_application(
            type(policy).__name__, models=["a", "b", "c"], slo=10.0, policy=policy
        )
        prediction = app.predict(X)
        np.testing.assert_array_equal(prediction.output, [2, 0])
        assert prediction.confidence == pytest.approx(1.0)
        many = app.predict_many(np.zeros((5, 1), np.float32))
        np.testing.assert_array_equal(many.output, [[2, 0]] * 5)
        np.testing.assert_array_equal(app.submit(X).result().output, [2, 0])


def test_a_missing_model_costs_its_weight_in_confidence(three: clipper.Engine) -> None:
    three.fails = True  # type: ignore[attr-defined]
    seen: list[dict[str, Any]] = []

    def first(outputs: dict[str, Any]) -> Any:
        seen.append(outputs)
        return outputs["a"]

    app = create(three, clipper.WeightedEnsemble({"a": 1, "b": 1, "c": 2}, combine=first))
    prediction = app.predict(X)
    assert prediction.confidence == pytest.approx(0.5)
    assert prediction.missing == {"c": clipper.Cause.MODEL_ERROR}
    assert list(seen[0]) == ["a", "b"]


def test_confidence_below_the_threshold_gives_the_default(three: clipper.Engine) -> None:
    three.fails = True  # type: ignore[attr-defined]
    app = create(three, clipper.MajorityVote(combine=median), min_confidence=0.9)
    prediction = app.predict(X)
    assert prediction.output == -1
    assert prediction.why is clipper.Cause.LOW_CONFIDENCE


def test_a_function_that_fails_gives_the_default_and_is_counted(three: clipper.Engine) -> None:
    def broken(outputs: dict[str, Any]) -> Any:
        raise ZeroDivisionError("oh")

    app = create(three, clipper.MajorityVote(combine=broken))
    assert app.predict(X).why is clipper.Cause.MODEL_ERROR
    failures = app.describe()["policy_failures"]
    assert failures["combine"] == 1
    assert "ZeroDivisionError: oh" in failures["last"]


def test_exp4_goes_on_learning_where_a_function_combines(three: clipper.Engine) -> None:
    app = create(three, clipper.Exp4(eta=0.1, combine=median), loss="absolute")
    for context in (None, "ada"):
        for _ in range(10):
            prediction = app.predict(X, context=context)
            label = np.array([1, 0], np.float32)
            assert app.feedback(prediction, label=label) == clipper.FeedbackStatus.APPLIED
    for state in (app.policy_state(), app.policy_state("ada")):
        assert state["a"].weight > state["b"].weight > state["c"].weight
    three.fails = True  # type: ignore[attr-defined]
    weights = app.policy_state("ada")
    there = app.predict(X, context="ada").confidence
    assert there == pytest.approx(1 - weights["c"].weight, abs=1e-6)
    assert app.describe()["contexts"]["in_memory"] == 1


def test_a_reward_counts_for_the_models_that_gave_the_very_answer(three: clipper.Engine) -> None:
    app = create(three, clipper.Exp4(combine=median))
    assert app.feedback(app.predict(X), loss=1.0) == clipper.FeedbackStatus.APPLIED
    state = app.policy_state()
    assert state["b"].weight < state["a"].weight == state["c"].weight
    three.fails = True  # type: ignore[attr-defined]
    between = app.predict(X)
    np.testing.assert_array_equal(between.output, [1.5, 0])
    assert app.feedback(between, loss=1.0) == clipper.FeedbackStatus.UNATTRIBUTED


def test_all_are_asked_while_nothing_waits(three: clipper.Engine) -> None:
    app = create(three, clipper.Exp4(fewest_under_load=1))
    for _ in range(50):
        assert set(app.predict(X).models) == {"a", "b", "c"}
    assert app.describe()["policy"]["asks_spared"] == 0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: clipper.MajorityVote(combine=3), TypeError, "give a function"),
        (lambda: clipper.Exp4(combine=lambda: 1), TypeError, "called with one argument"),
        (lambda: clipper.Exp4(combine=median, takes_mean=True), ValueError, "give one of them"),
        (lambda: clipper.MajorityVote(fewest_under_load=0), ValueError, "one model at least"),
        (lambda: clipper.MajorityVote(fewest_under_load=1.5), TypeError, "whole number"),
        (
            lambda: clipper.WeightedEnsemble({"a": 1}, fewest_under_load=-1),
            ValueError,
            "one model at least",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
