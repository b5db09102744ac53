"""Policies that are Python classes choose, combine and learn, and break nothing when they fail."""

import asyncio
import threading

import numpy as np
import pytest

import clipper
from clipper.policies.policy_states import PolicyStates

LABEL = clipper.Tensor("int64", ())
X = np.zeros(1, np.float32)


@pytest.fixture
def engine():
    with clipper.Engine() as made:
        yield made


def says(engine, name, answer):
    engine.deploy(
        name,
        lambda batch: np.full(len(batch), answer, np.int64),
        input=clipper.Tensor("float32", (1,)),
        output=LABEL,
    )


def fails(engine, name):
    def model(batch):
        raise RuntimeError("broken")

    engine.deploy(name, model, input=clipper.Tensor("float32", (1,)), output=LABEL)


class AsksAll:
    """Asks all, gives the largest answer, counts in its state what came by."""

    def select(self, models, context, state):
        state["asked"] = state.get("asked", 0) + 1
        state["context"] = context
        return models

    def combine(self, answers, state):
        there = [answer for answer in answers.values() if answer is not None]
        return max(there), len(there) / len(answers)

    def observe(self, observations, state):
        state.setdefault("seen", []).extend(observations)


class FollowsTheLeader(AsksAll):
    """Asks the model that has lost least so far in this context."""

    def begin(self):
        return {"loss": {}}

    def select(self, models, context, state):
        self.state = state
        return min(models, key=lambda name: state["loss"].get(name, 0.0))

    def observe(self, observations, state):
        for seen in observations:
            state["loss"][seen.model] = state["loss"].get(seen.model, 0.0) + seen.loss


def make(engine, policy, models=("a", "b"), default=-1, **options):
    extra = {} if default is None else {"default": default}
    return engine.create_application(
        "app", models=models, slo=10.0, policy=policy, **extra, **options
    )


def by_all_ways(app, x, **options):
    """One prediction by each way of asking."""

    async def one():
        return await app.predict_async(x, **options)

    return {
        "predict": app.predict(x, **options),
        "predict_many": app.predict_many(x[None], **options)[0],
        "submit": app.submit(x, **options).result(),
        "predict_async": asyncio.run(one()),
    }


def test_every_way_of_asking_goes_through_the_policy(engine):
    says(engine, "a", 3)
    says(engine, "b", 7)
    app = make(engine, AsksAll())
    for way, made in by_all_ways(app, X).items():
        assert (made.output, made.confidence, made.why) == (7, 1.0, None), way
        assert set(made.models) == {"a", "b"}, way
    assert app.describe()["answered"] == 4


def test_a_policy_that_chooses_one_model_has_only_that_asked(engine):
    says(engine, "a", 3)
    says(engine, "b", 7)

    class AsksOne(AsksAll):
        def select(self, models, context, state):
            return "a"

    app = make(engine, AsksOne())
    for way, made in by_all_ways(app, X).items():
        assert (made.output, set(made.models)) == (3, {"a"}), way
    assert engine.describe()["models"]["b"]["versions"] is not None
    assert engine.application("b").describe()["rows"] == 0


def test_rows_of_one_call_are_combined_each_by_itself(engine):
    for name, factor in (("a", 1), ("b", 2)):
        engine.deploy(
            name,
            lambda batch, factor=factor: (batch[:, 0] * factor).astype(np.int64),
            input=clipper.Tensor("float32", (1,)),
            output=LABEL,
        )
    policy = AsksAll()
    app = make(engine, policy)
    made = app.predict_many(np.arange(50, dtype=np.float32)[:, None])
    np.testing.assert_array_equal(made.output, np.arange(50) * 2)
    assert made.why == [None] * 50


def test_outputs_that_are_not_plain_numbers_are_combined_too(engine):
    for name, text in (("a", "left"), ("b", "right")):
        engine.deploy(
            name,
            lambda batch, text=text: [text] * len(batch),
            input=clipper.Tensor("float32", (1,)),
            output=clipper.Tensor("text", ()),
        )

    class Joins(AsksAll):
        def combine(self, answers, state):
            return "+".join(answers.values()), 1.0

    app = make(engine, Joins(), default="?")
    assert app.predict(X).output == "left+right"
    assert list(app.predict_many(np.zeros((3, 1), np.float32)).output) == ["left+right"] * 3


def test_what_a_model_did_not_answer_is_none_and_named_as_missing(engine):
    says(engine, "a", 3)
    fails(engine, "b")
    app = make(engine, AsksAll())
    for way, made in by_all_ways(app, X).items():
        assert (made.output, made.confidence) == (3, 0.5), way
        assert made.missing == {"b": clipper.Cause.MODEL_ERROR}, way


def test_where_no_model_answers_the_policy_is_not_asked_and_the_cause_is_the_models(engine):
    fails(engine, "a")
    fails(engine, "b")
    app = make(engine, AsksAll())
    for way, made in by_all_ways(app, X).items():
        assert (made.is_default, made.why) == (True, clipper.Cause.MODEL_ERROR), way
    assert app.describe()["policy_failures"]["combine"] == 0


def test_no_answer_and_too_little_confidence_are_low_confidence(engine):
    says(engine, "a", 3)
    says(engine, "b", 7)

    class Declines(AsksAll):
        answer = None

        def combine(self, answers, state):
            return self.answer

    policy = Declines()
    app = make(engine, policy, min_confidence=0.5)
    assert app.predict(X).why is clipper.Cause.LOW_CONFIDENCE
    policy.answer = (3, 0.49)
    assert app.predict(X).why is clipper.Cause.LOW_CONFIDENCE
    policy.answer = (3, 0.5)
    assert app.predict(X).output == 3


def test_feedback_reaches_observe_with_losses_and_propensities(engine):
    says(engine, "a", 3)
    says(engine, "b", 7)

    class Weighs(AsksAll):
        def begin(self):
            return {"seen": []}

        def select(self, models, context, state):
            self.states = {**getattr(self, "states", {}), context: state}
            return {"a": 0.25, "b": 0.75}

    policy = Weighs()
    app = make(engine, policy)
    wanted = [("a", 0.0, 0.25), ("b", 1.0, 0.75)]
    made = app.predict(X)
    assert app.feedback(made, label=3) == clipper.FeedbackStatus.APPLIED
    assert app.feedback(made, label=3) == clipper.FeedbackStatus.DUPLICATE
    assert policy.states[None]["seen"] == wanted
    many = app.predict_many(np.zeros((2, 1), np.float32), context="u")
    assert list(app.feedback_many(many, labels=[3, 7])) == [0, 0]
    assert policy.states["u"]["seen"] == [*wanted, ("a", 1.0, 0.25), ("b", 0.0, 0.75)]
    assert app.feedback_for(X, label=7, context="u") == clipper.FeedbackStatus.APPLIED
    assert policy.states["u"]["seen"][4:] == [("a", 1.0, 1.0), ("b", 0.0, 1.0)]
    # A reward is for whose output was given.
    assert app.feedback(app.predict(X, context="v"), reward=0.25) == 0
    assert policy.states["v"]["seen"] == [("b", 0.75, 0.75)]
    assert policy.states[None]["seen"] == wanted


def test_a_policy_that_learns_leaves_a_bad_model_in_each_context_by_itself(engine):
    says(engine, "a", 3)
    says(engine, "b", 7)
    app = make(engine, FollowsTheLeader())
    for _ in range(5):
        app.feedback(app.predict(X, context=1), label=7)
        app.feedback(app.predict(X, context=2), label=3)
    assert app.predict(X, context=1).output == 7
    assert app.predict(X, context=2).output == 3
    assert app.predict(X).output == 3
    assert app.describe()["contexts"]["in_memory"] == 2


def raises(*_):
    raise KeyError("the policy's own mistake")


@pytest.mark.parametrize(
    ("select", "text"),
    [
        (raises, "own mistake"),
        (lambda *_: "c", "it chose 'c'"),
        (lambda *_: ["a", "a"], "twice"),
        (lambda *_: [], "no model"),
        (lambda *_: None, "None"),
        (lambda *_: 3, "int"),
        (lambda *_: {"a": 0.0}, "probability"),
        (lambda *_: {"a": 1.5}, "probability"),
        (lambda *_: {"a": float("nan")}, "probability"),
        (lambda *_: [["a"]], "unhashable"),
    ],
)
def test_a_choice_that_cannot_be_used_gives_the_default_and_says_why(engine, select, text):
    says(engine, "a", 3)
    says(engine, "b", 7)
    policy = AsksAll()
    policy.select = select
    app = make(engine, policy)
    for way, made in by_all_ways(app, X).items():
        assert (made.output, made.why, made.missing) == (-1, clipper.Cause.MODEL_ERROR, {}), way
        assert app.feedback(made, label=3) == clipper.FeedbackStatus.UNATTRIBUTED, way
    described = app.describe()
    assert described["policy_failures"]["select"] == 4
    assert text in described["policy_failures"]["last"]
    assert described["causes"] == {"model_error": 4}
    assert engine.describe()["open_queries"] == 0


@pytest.mark.parametrize(
    ("combine", "text"),
    [
        (raises, "own mistake"),
        (lambda *_: 3, "output and confidence"),
        (lambda *_: (3, 1.01), "confidence"),
        (lambda *_: (3, -0.1), "confidence"),
        (lambda *_: (3, float("nan")), "confidence"),
        (lambda *_: (3, "high"), "str"),
        (lambda *_: ([1, 2], 1.0), "its output"),
        (lambda *_: ("x", 1.0), "its output"),
    ],
)
def test_an_answer_that_cannot_be_used_gives_the_default_and_says_why(engine, combine, text):
    says(engine, "a", 3)
    says(engine, "b", 7)
    policy = AsksAll()
    policy.combine = combine
    app = make(engine, policy)
    for way, made in by_all_ways(app, X).items():
        assert (made.output, made.why, made.missing) == (-1, clipper.Cause.MODEL_ERROR, {}), way
    assert app.describe()["policy_failures"]["combine"] == 4
    assert text in app.describe()["policy_failures"]["last"]


@pytest.mark.parametrize("method", ["select", "combine"])
def test_without_a_default_the_exception_tells_what_the_policy_did(engine, method):
    says(engine, "a", 3)
    says(engine, "b", 7)
    policy = AsksAll()
    setattr(policy, method, raises)
    app = make(engine, policy, default=None)
    with pytest.raises(clipper.ModelError, match=f"app: the policy's {method} failed: KeyError"):
        app.predict(X)
    with pytest.raises(clipper.ModelError, match="own mistake"):
        app.submit(X).result()

    async def one():
        await app.predict_async(X)

    with pytest.raises(clipper.ModelError, match="own mistake"):
        asyncio.run(one())


def test_an_observe_that_raises_is_counted_and_the_next_one_is_called(engine):
    says(engine, "a", 3)

    class Moody(AsksAll):
        calls = 0

        def observe(self, observations, state):
            self.calls += 1
            if self.calls == 1:
                raise ValueError("not today")

    policy = Moody()
    app = make(engine, policy, models=["a"])
    many = app.predict_many(np.zeros((3, 1), np.float32))
    assert list(app.feedback_many(many, labels=[3, 3, 3])) == [0, 0, 0]
    assert policy.calls == 3
    assert app.describe()["policy_failures"]["observe"] == 1
    assert "not today" in app.describe()["policy_failures"]["last"]


def test_what_ends_a_program_passes_through_a_policy_and_nothing_stays_open(engine):
    says(engine, "a", 3)

    class Ends(AsksAll):
        is_ending = True

        def combine(self, answers, state):
            if self.is_ending:
                raise KeyboardInterrupt
            return super().combine(answers, state)

    policy = Ends()
    app = make(engine, policy, models=["a"])
    with pytest.raises(KeyboardInterrupt):
        app.predict(X)
    future = app.submit(X)
    with pytest.raises(KeyboardInterrupt):
        future.result()
    with pytest.raises(KeyboardInterrupt):
        future.result()  # it does not turn into an answer
    policy.is_ending = False
    assert app.predict(X).output == 3
    assert engine.describe()["open_queries"] == 0
    assert app.describe()["rows"] == 3


def test_queries_that_are_cancelled_leave_the_policy_sound(engine):
    gate = threading.Event()

    def slow(batch):
        gate.wait(10)
        return np.full(len(batch), 3, np.int64)

    engine.deploy("a", slow, input=clipper.Tensor("float32", (1,)), output=LABEL, caller_runs=False)
    app = make(engine, AsksAll(), models=["a"])

    async def impatient():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(app.predict_async(X), 0.01)

    asyncio.run(impatient())
    assert app.submit(X).cancel()
    late = app.predict(X, deadline=0.01)
    assert late.why is clipper.Cause.DEADLINE
    gate.set()
    assert app.predict(X).output == 3


def test_methods_are_never_called_at_once_with_the_same_state(engine):
    says(engine, "a", 3)
    says(engine, "b", 7)

    class Jealous(AsksAll):
        def begin(self):
            return {"inside": 0, "asked": 0, "at_once": 0}

        def select(self, models, context, state):
            self.last = state
            state["inside"] += 1
            state["at_once"] = max(state["at_once"], state["inside"])
            for _ in range(200):
                pass
            state["inside"] -= 1
            state["asked"] += 1
            return models

        def observe(self, observations, state):
            self.select((), None, state)

    policy = Jealous()
    app = make(engine, policy)
    wrong = []

    def work():
        for _ in range(100):
            made = app.predict(X)
            if made.output != 7 or app.feedback(made, label=7) != 0:
                wrong.append(made)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert policy.last["asked"] == 1600
    assert policy.last["at_once"] == 1


def test_contexts_beyond_the_bound_are_forgotten_unless_they_are_in_use():
    states = PolicyStates(dict, 2)
    held = states.of(1)
    held.value["kept"] = True
    for context in range(2, 10):
        states.of(context)
    assert states.describe() == {"in_memory": 2, "most": 2, "forgotten": 7}
    assert states.of(1) is held
    del held
    for context in range(2, 10):
        states.of(context)
    assert states.of(1).value == {}


@pytest.mark.parametrize(
    ("policy", "error", "text"),
    [
        (AsksAll, TypeError, "give an instance"),
        (object(), TypeError, "no method 'select'"),
        ("majority", TypeError, "no method 'select'"),
        (type("P", (AsksAll,), {"select": lambda self, x: x})(), TypeError, "3 arguments"),
        (type("P", (AsksAll,), {"begin": lambda self, x: x})(), TypeError, "0 arguments"),
        (type("P", (AsksAll,), {"begin": raises})(), KeyError, "own mistake"),
        (type("P", (AsksAll,), {"max_contexts": 0})(), ValueError, "max_contexts"),
        (type("P", (AsksAll,), {"observe": 3})(), TypeError, "no method 'observe'"),
    ],
)
def test_what_is_no_policy_is_refused_when_the_application_is_made(engine, policy, error, text):
    says(engine, "a", 3)
    with pytest.raises(error, match=text):
        make(engine, policy, models=["a"])
    assert make(engine, AsksAll(), models=["a"]).predict(X).output == 3


def test_a_policy_whose_methods_are_coroutines_is_refused(engine):
    says(engine, "a", 3)

    class Awaits(AsksAll):
        async def select(self, models, context, state):
            return models

    with pytest.raises(TypeError, match="coroutine"):
        make(engine, Awaits(), models=["a"])


def test_what_the_policy_takes_counts_against_the_deadline(engine):
    says(engine, "a", 3)

    class Slow(AsksAll):
        def select(self, models, context, state):
            threading.Event().wait(0.05)
            return models

    app = make(engine, Slow(), models=["a"])
    made = app.predict(X, deadline=0.02)
    assert made.is_default
    assert app.predict(X, deadline=5.0).latency >= 0.05


def test_a_closed_engine_asks_no_policy(engine):
    says(engine, "a", 3)
    asked = []

    class Counts(AsksAll):
        def select(self, models, context, state):
            asked.append(context)
            return models

    app = make(engine, Counts(), models=["a"])
    engine.close()
    with pytest.raises(clipper.EngineClosedError):
        app.predict(X)
    assert asked == []
