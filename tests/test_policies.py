"""Policies choose, combine and refuse as they say."""

import numpy as np
import pytest

import clipper

LABEL = clipper.Tensor("int64", ())
SCORES = clipper.Tensor("float32", (2,))


@pytest.fixture
def engine():
    with clipper.Engine() as made:
        yield made


def says(engine, name, answer, output=LABEL):
    """Deploy a model that always gives the same answer."""
    row = np.asarray(answer, output.dtype)
    engine.deploy(
        name,
        lambda batch: np.repeat(row[None], len(batch), axis=0),
        input=clipper.Tensor("float32", (1,)),
        output=output,
    )


def fails(engine, name):
    def model(batch):
        raise RuntimeError("broken")

    engine.deploy(name, model, input=clipper.Tensor("float32", (1,)), output=LABEL)


def ask(engine, policy, models, **options):
    app = engine.create_application(
        "app", models=models, slo=10.0, policy=policy, default=-1, **options
    )
    return app


X = np.zeros(1, np.float32)


@pytest.mark.parametrize(
    "policy",
    [clipper.EpsilonGreedy(), clipper.Ucb1(), clipper.Thompson(), clipper.Exp3()],
    ids=lambda policy: type(policy).__name__,
)
def test_a_bandit_leaves_a_model_that_fails_without_any_feedback(engine, policy):
    says(engine, "good", 1)
    fails(engine, "bad")
    app = ask(engine, policy, ["bad", "good"])
    for _ in range(600):
        app.predict(X)
    late = [app.predict(X).output for _ in range(200)]
    assert late.count(1) > 160


def test_a_weighted_vote_goes_to_the_weight_and_not_to_the_number(engine):
    for name, answer in [("a", 1), ("b", 2), ("c", 2)]:
        says(engine, name, answer)
    app = ask(engine, clipper.WeightedEnsemble({"a": 5, "b": 1, "c": 2}), ["a", "b", "c"])
    prediction = app.predict(X)
    assert prediction.output == 1
    assert prediction.confidence == pytest.approx(5 / 8)


def test_a_mean_is_weighted_and_its_confidence_is_the_share_that_agrees(engine):
    says(engine, "a", [1.0, 0.0], SCORES)
    says(engine, "b", [0.0, 1.0], SCORES)
    policy = clipper.WeightedEnsemble({"a": 3, "b": 1}, takes_mean=True)
    prediction = ask(engine, policy, ["a", "b"]).predict(X)
    np.testing.assert_allclose(prediction.output, [0.75, 0.25])
    assert prediction.confidence == pytest.approx(0.75)


def test_a_missing_answer_costs_confidence_and_may_cost_the_answer(engine):
    says(engine, "a", 1)
    fails(engine, "b")
    app = ask(engine, clipper.Exp4(failure_loss=None), ["a", "b"], min_confidence=0.6)
    prediction = app.predict(X)
    assert prediction.is_default
    assert prediction.why is clipper.Cause.LOW_CONFIDENCE
    assert "b" in prediction.missing


def test_exp4_trusts_a_model_that_fails_less_and_less(engine):
    says(engine, "a", 1)
    fails(engine, "b")
    app = ask(engine, clipper.Exp4(), ["a", "b"])
    assert app.predict(X).confidence == pytest.approx(0.5)
    for _ in range(100):
        app.predict(X)
    assert app.predict(X).confidence > 0.95


def test_a_canary_that_fails_is_asked_no_more(engine):
    says(engine, "old", 1)
    fails(engine, "new")
    app = ask(engine, clipper.Canary("new", share=0.5, min_count=20), ["old", "new"])
    for _ in range(300):
        app.predict(X)
    assert all(app.predict(X).output == 1 for _ in range(100))


def test_a_mean_of_labels_is_refused(engine):
    says(engine, "a", 1)
    says(engine, "b", 1)
    with pytest.raises(ValueError, match="float32"):
        ask(engine, clipper.Exp4(takes_mean=True), ["a", "b"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: clipper.EpsilonGreedy(epsilon=2), "epsilon"),
        (lambda: clipper.Exp3(eta=0), "eta"),
        (lambda: clipper.Exp3(gamma=-1), "gamma"),
        (lambda: clipper.Exp4(floor=0.9), "floor"),
        (lambda: clipper.Thompson(memory=0), "memory"),
        (lambda: clipper.Ucb1(failure_loss=3), "failure_loss"),
        (lambda: clipper.WeightedEnsemble({"a": -1}), "weights"),
        (lambda: clipper.WeightedEnsemble({}), "weights"),
        (lambda: clipper.Canary("new", z=0), "z"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_to_give(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_policy_over_models_that_are_not_linked_is_refused(engine):
    says(engine, "a", 1)
    says(engine, "b", 1)
    with pytest.raises(ValueError, match="name exactly those"):
        ask(engine, clipper.WeightedEnsemble({"a": 1, "c": 1}), ["a", "b"])
