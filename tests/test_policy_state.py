"""What a policy has learned can be seen: by model, by context; canaries that left come back."""

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import clipper
from clipper.policies import ModelStanding

X = np.zeros(1, np.float32)
LABEL = clipper.Tensor("int64", ())


def deploy(engine: clipper.Engine, name: str, answer: Callable[[], int]) -> None:
    engine.deploy(
        name,
        lambda batch: np.full(len(batch), answer(), np.int64),
        input=clipper.Tensor("float32", (1,)),
        output=LABEL,
    )


@pytest.fixture
def two(engine: clipper.Engine) -> clipper.Engine:
    deploy(engine, "one", lambda: 1)
    deploy(engine, "two", lambda: 2)
    return engine


def create(engine: clipper.Engine, policy: Any, **options: Any) -> clipper.Application:
    return engine.create_application(
        "app", models=["one", "two"], slo=10.0, policy=policy, default=-1, **options
    )


BANDITS = [clipper.EpsilonGreedy(), clipper.Ucb1(), clipper.Thompson(), clipper.Exp3()]
OTHERS = [
    clipper.Exp4(),
    clipper.MajorityVote(),
    clipper.WeightedEnsemble({"one": 1, "two": 3}),
    clipper.WeightedSplit({"one": 1, "two": 3}),
    clipper.Canary("two", share=0.25),
]


@pytest.mark.parametrize("policy", BANDITS + OTHERS, ids=lambda policy: type(policy).__name__)
def test_every_policy_tells_what_it_makes_of_each_model(two: clipper.Engine, policy: Any) -> None:
    app = create(two, policy)
    state = app.policy_state()
    assert list(state) == ["one", "two"]
    assert sum(standing.weight for standing in state.values()) == pytest.approx(1)
    asked = sum(standing.share for standing in state.values())
    assert asked == pytest.approx(2 if not policy.asks_one else 1)
    described = app.describe()["policy"]
    assert described["text"] == repr(policy)
    assert described["models"] == {name: seen._asdict() for name, seen in state.items()}


@pytest.mark.parametrize("policy", BANDITS[:3], ids=lambda policy: type(policy).__name__)
def test_means_and_counts_are_those_of_the_feedback(two: clipper.Engine, policy: Any) -> None:
    app = create(two, policy)
    losses: dict[str, list[float]] = {"one": [], "two": []}
    for step in range(60):
        prediction = app.predict(X)
        (asked,) = prediction.models
        losses[asked].append((step % 5) / 4)
        app.feedback(prediction, loss=losses[asked][-1])
    for name, standing in app.policy_state().items():
        seen = losses[name]
        assert standing.observed == len(seen)
        assert standing.loss == (pytest.approx(np.mean(seen)) if seen else None)


def test_weights_without_a_mean_say_so(two: clipper.Engine) -> None:
    app = create(two, clipper.Exp4(eta=0.5))
    app.feedback(app.predict(X), label=2)
    assert app.policy_state() == {
        "one": ModelStanding(1.0, pytest.approx(1 / (1 + np.e**0.5)), None, 0.0),
        "two": ModelStanding(1.0, pytest.approx(np.e**0.5 / (1 + np.e**0.5)), None, 0.0),
    }


def test_each_context_has_a_state_of_its_own_and_a_stranger_that_of_all(
    two: clipper.Engine,
) -> None:
    app = create(two, clipper.Exp4(eta=1.0))
    for _ in range(10):
        app.feedback(app.predict(X, context="ada"), label=1)
        app.feedback(app.predict(X), label=2)
    assert app.policy_state("ada")["one"].weight > 0.98
    assert app.policy_state()["one"].weight < 0.02
    begun = app.describe()["contexts"]["begun"]
    assert app.policy_state(("never", "seen")) == app.policy_state()
    counts = app.describe()["contexts"]
    assert (counts["begun"], counts["in_memory"]) == (begun, 1)


def test_a_context_that_was_put_away_is_fetched_to_be_looked_at(two: clipper.Engine) -> None:
    app = create(two, clipper.Exp4(eta=1.0), context_memory="64KiB")
    app.feedback(app.predict(X, context="ada"), label=1)
    weight = app.policy_state("ada")["one"].weight
    for other in range(1_000):  # so many that there is no room left for the first
        app.feedback(app.predict(X, context=other), label=2)
    loaded = app.describe()["contexts"]["loaded"]
    assert app.policy_state("ada")["one"].weight == weight != app.policy_state()["one"].weight
    assert app.describe()["contexts"]["loaded"] == loaded + 1
    assert app.policy_state(999)["two"].weight > 0.7


def test_a_single_model_and_stages_and_classes_have_their_own_say(two: clipper.Engine) -> None:
    assert two.model("one").policy_state() == {"one": ModelStanding(1.0, 1.0, None, 0.0)}
    with pytest.raises(TypeError, match="context is"):
        two.model("one").policy_state(1.5)  # type: ignore[arg-type]

    class Own:
        def select(self, models: Any, context: Any, state: Any) -> Any:
            return models[0]

        def combine(self, answers: Any, state: Any) -> Any:
            return next(iter(answers.values())), 1.0

        def observe(self, observations: Any, state: Any) -> None: ...

    app = create(two, Own())
    assert app.describe()["policy"]["models"] == {}
    with pytest.raises(ValueError, match="only that knows"):
        app.policy_state()


def records(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "canary" in r.getMessage()]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_a_canary_that_is_withdrawn_is_logged_once_and_can_be_restarted(
    engine: clipper.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    broken = True

    def new() -> int:
        if broken:
            raise RuntimeError("not yet")
        return 2

    deploy(engine, "one", lambda: 1)
    deploy(engine, "two", new)
    app = create(engine, clipper.Canary("two", share=0.5, min_count=20))
    caplog.set_level(logging.WARNING, "clipper")
    for times in (1, 2):
        assert app.describe()["policy"]["withdrawn"] is False
        assert app.policy_state()["two"].share == 0.5
        for _ in range(300):
            app.predict(X)
        assert app.describe()["policy"]["withdrawn"] is True
        state = app.policy_state()
        assert (state["one"].share, state["two"].share) == (1.0, 0.0)
        assert state["two"].loss == 1.0
        wait_for(lambda times=times: len(records(caplog)) == times)
        app.restart_canary()
    broken = False
    outputs = [app.predict(X).output for _ in range(300)]
    assert outputs.count(2) > 90
    assert app.policy_state()["two"].loss == 0.0
    assert len(records(caplog)) == 2
    assert "application app: canary 'two' was withdrawn" in records(caplog)[0]
    assert "restart_canary()" in records(caplog)[0]


def test_only_a_canary_can_be_restarted(two: clipper.Engine) -> None:
    with pytest.raises(ValueError, match="has no canary"):
        create(two, clipper.Exp3()).restart_canary()
    assert "withdrawn" not in two.application("app").describe()["policy"]
