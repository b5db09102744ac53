"""Shadows are asked behind the caller's back, compared, and never noticed."""

import asyncio
import threading
import time

import numpy as np
import pytest

import clipper

LABEL = clipper.Tensor("int64", ())
ROW = clipper.Tensor("float32", (1,))
X = np.zeros(1, np.float32)


@pytest.fixture
def engine():
    with clipper.Engine() as made:
        yield made


def says(engine, name, answer, **options):
    engine.deploy(
        name,
        lambda batch: np.full(len(batch), answer, np.int64),
        input=ROW,
        output=LABEL,
        **options,
    )


def thresholds(engine, name, threshold):
    """Deploy a model that says whether its input is above a threshold."""
    engine.deploy(
        name, lambda batch: (batch[:, 0] > threshold).astype(np.int64), input=ROW, output=LABEL
    )


def waits(engine, name, answer, gate):
    def model(batch):
        assert gate.wait(30)
        return np.full(len(batch), answer, np.int64)

    engine.deploy(name, model, input=ROW, output=LABEL, caller_runs=False)


def fails(engine, name):
    def model(batch):
        raise RuntimeError("broken")

    engine.deploy(name, model, input=ROW, output=LABEL)


def make(engine, of="old", models=("old", "new"), shadows=("new",), **options):
    options = {"slo": 10.0, "default": -1} | options
    return engine.create_application(
        "app", models=models, policy=clipper.Shadow(of=of, models=shadows), **options
    )


def until(condition):
    """Wait for what the engine's own thread does."""
    end = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < end, "it has not come to that in ten seconds"
        time.sleep(0.002)


def seen(app, name="new"):
    described = app.describe()["shadows"][name]
    return described["answered"] + sum(described["causes"].values())


def test_every_way_of_asking_asks_the_shadow_and_gives_the_other_answer(engine):
    says(engine, "old", 1)
    says(engine, "new", 2)
    app = make(engine)

    async def one():
        return await app.predict_async(X)

    for made in (app.predict(X), app.predict_many(X[None])[0], app.submit(X).result(),
                 asyncio.run(one())):  # fmt: skip
        assert (made.output, made.confidence, dict(made.models)) == (1, 1.0, {"old": 1})
    until(lambda: seen(app) == 4)
    shadow = app.describe()["shadows"]["new"]
    assert (shadow["compared"], shadow["agreed"], shadow["agreement"]) == (4, 0, 0.0)
    assert app.describe()["rows"] == 4


def test_agreements_are_counted_row_by_row(engine):
    thresholds(engine, "old", 49.5)
    thresholds(engine, "new", 69.5)
    app = make(engine)
    X100 = np.arange(100, dtype=np.float32)[:, None]
    app.predict_many(X100)
    for x in X100:
        app.predict(x)
    until(lambda: seen(app) == 200)
    shadow = app.describe()["shadows"]["new"]
    assert (shadow["compared"], shadow["agreed"]) == (200, 160)
    assert shadow["agreement"] == pytest.approx(0.8)
    assert shadow["latency"]["max"] > 0.0


def test_vectors_of_floats_agree_where_their_largest_number_is_in_the_same_place(engine):
    for name, scores in (("old", [0.1, 0.9]), ("new", [0.4, 0.6]), ("other", [0.6, 0.4])):
        engine.deploy(
            name,
            lambda batch, scores=scores: np.tile(np.float32(scores), (len(batch), 1)),
            input=ROW,
            output=clipper.Tensor("float32", (2,)),
        )
    app = make(engine, models=("old", "new", "other"), shadows=("new", "other"), default=None)
    app.predict(X)
    until(lambda: seen(app) == 1 and seen(app, "other") == 1)
    until(lambda: app.describe()["shadows"]["other"]["compared"] == 1)
    assert app.describe()["shadows"]["new"]["agreement"] == 1.0
    assert app.describe()["shadows"]["other"]["agreement"] == 0.0


def test_texts_of_any_length_are_compared(engine):
    for name, text in (("old", "yes " * 50), ("new", "yes " * 50), ("other", "no")):
        engine.deploy(
            name,
            lambda batch, text=text: [text] * len(batch),
            input=ROW,
            output=clipper.Tensor("text", ()),
        )
    app = make(engine, models=("old", "new", "other"), shadows=("new", "other"))
    assert list(app.predict_many(np.zeros((7, 1), np.float32)).output) == ["yes " * 50] * 7
    until(lambda: seen(app) == 7 and seen(app, "other") == 7)
    until(lambda: app.describe()["shadows"]["other"]["compared"] == 7)
    assert app.describe()["shadows"]["new"]["agreed"] == 7
    assert app.describe()["shadows"]["other"]["agreed"] == 0


def test_nobody_waits_for_a_shadow_and_its_late_answer_counts(engine):
    gate = threading.Event()
    says(engine, "old", 1)
    waits(engine, "new", 1, gate)
    app = make(engine, slo=1.0)
    for _ in range(20):
        made = app.predict(X)
        assert (made.output, made.missing) == (1, {})
    assert app.describe()["in_time"] == 20
    assert seen(app) == 0
    gate.set()
    until(lambda: seen(app) == 20)
    until(lambda: app.describe()["shadows"]["new"]["agreed"] == 20)


def test_a_shadow_that_is_done_first_is_compared_with_what_comes_later(engine):
    gate = threading.Event()
    waits(engine, "old", 1, gate)
    says(engine, "new", 1)
    app = make(engine)
    future = app.submit(X)
    until(lambda: engine.application("new").describe() is not None and _ran(engine, "new") == 1)
    gate.set()
    assert future.result().output == 1
    until(lambda: app.describe()["shadows"]["new"]["agreed"] == 1)


def _ran(engine, name):
    versions = engine.describe()["models"][name]["versions"]
    versions = versions.values() if isinstance(versions, dict) else versions
    return sum(r["rows"] for v in versions for r in v["replicas"])


def test_a_shadow_that_fails_is_counted_and_not_noticed(engine):
    says(engine, "old", 1)
    fails(engine, "new")
    app = make(engine, default=None)
    for _ in range(10):
        assert app.predict(X).missing == {}
    until(lambda: seen(app) == 10)
    shadow = app.describe()["shadows"]["new"]
    assert shadow["causes"] == {"model_error": 10}
    assert (shadow["compared"], shadow["agreement"]) == (0, None)
    assert app.describe()["causes"] == {}


def test_a_shadow_that_is_gone_is_counted_and_not_noticed(engine):
    says(engine, "old", 1)
    says(engine, "new", 1)
    app = make(engine)
    engine.undeploy("new")
    assert app.predict(X).output == 1
    until(lambda: app.describe()["shadows"]["new"]["causes"] == {"no_replica": 1})


def test_a_default_is_compared_with_nothing(engine):
    fails(engine, "old")
    says(engine, "new", -1)
    app = make(engine)
    assert app.predict(X).is_default
    until(lambda: seen(app) == 1)
    assert app.describe()["shadows"]["new"]["compared"] == 0


def test_policies_of_the_core_and_of_python_can_have_shadows(engine):
    says(engine, "a", 1)
    says(engine, "b", 1)
    says(engine, "new", 1)

    class First:
        def select(self, models, context, state):
            return models

        def combine(self, answers, state):
            return answers["a"], 1.0

        def observe(self, observations, state):
            pass

    for of in (clipper.MajorityVote(), First()):
        app = engine.create_application(
            type(of).__name__,
            models=["a", "b", "new"],
            slo=10.0,
            policy=clipper.Shadow(of=of, models=["new"]),
        )
        assert app.predict(X).models == {"a": 1, "b": 1}
        until(lambda app=app: app.describe()["shadows"]["new"]["agreed"] == 1)


def test_a_cascade_can_have_a_shadow(engine):
    for name, scores in (("small", [0.6, 0.4]), ("large", [0.05, 0.95]), ("new", [0.1, 0.9])):
        engine.deploy(
            name,
            lambda batch, scores=scores: np.tile(np.float32(scores), (len(batch), 1)),
            input=ROW,
            output=clipper.Tensor("float32", (2,)),
        )
    app = make(engine, clipper.Cascade(0.9), ("small", "large", "new"), default=None)
    np.testing.assert_allclose(app.predict(X).output, [0.05, 0.95])
    assert len(app.predict_many(np.zeros((5, 1), np.float32))) == 5
    until(lambda: app.describe()["shadows"]["new"]["compared"] == 6)
    assert app.describe()["shadows"]["new"]["agreed"] == 6


def test_feedback_by_input_asks_no_shadow(engine):
    says(engine, "old", 1)
    says(engine, "new", 1)
    app = make(engine, loss="zero_one")
    assert app.feedback_for(X, label=1) == clipper.FeedbackStatus.APPLIED
    assert app.feedback(app.predict(X), label=1) == clipper.FeedbackStatus.APPLIED
    until(lambda: seen(app) == 1)
    assert app.describe()["feedback"]["judged"] == {"old": 2}


def test_queries_that_are_cancelled_or_dropped_leave_no_shadow_behind(engine):
    gate = threading.Event()
    waits(engine, "old", 1, gate)
    says(engine, "new", 1)
    app = make(engine)
    assert app.submit(X).cancel()
    del_me = app.submit(X)
    del del_me
    assert app.predict(X, deadline=0.01).why is clipper.Cause.DEADLINE
    gate.set()
    until(lambda: seen(app) == 3)
    until(lambda: engine.describe()["open_queries"] == 0)


def test_an_engine_closes_with_shadows_under_way():
    gate = threading.Event()
    with clipper.Engine() as engine:
        says(engine, "old", 1)
        waits(engine, "new", 1, gate)
        app = make(engine)
        kept = [app.submit(X) for _ in range(10)]
        gate.set()
    assert all(future.done() for future in kept)


@pytest.mark.parametrize(
    ("of", "models", "shadows", "text"),
    [
        ("old", ("old",), ("new",), "name its shadows in models"),
        ("old", ("old", "new", "third"), ("new",), "leaves"),
        ("new", ("old", "new"), ("new",), "leaves"),
        ("old", ("old", "new"), (), "at least one"),
        ("old", ("old", "new"), ("new", "new"), "each once"),
        ("old", ("old", "other"), ("other",), "cannot be a shadow"),
        (None, ("old", "new", "third"), ("new",), "say how to choose"),
    ],
)
def test_shadows_that_make_no_sense_are_refused(engine, of, models, shadows, text):
    for name in ("old", "new", "third"):
        says(engine, name, 1)
    engine.deploy("other", lambda batch: batch, input=ROW, output=ROW)
    with pytest.raises(ValueError, match=text):
        make(engine, of, models, shadows)
    assert make(engine).predict(X).output == 1
