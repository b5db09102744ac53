"""Feedback: by prediction, id or input; by label, reward or loss; counted, and never lost."""

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import clipper
from clipper import FeedbackStatus, Loss
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


@pytest.fixture
def engine() -> Iterator[clipper.Engine]:
    with clipper.Engine() as made:
        yield made


@pytest.fixture
def votes(engine: clipper.Engine) -> clipper.Application:
    """Two models say 1, one says 2, and one fails."""
    app = judged(engine, clipper.Tensor("int64"), "zero_one", a=1, b=1, c=2, d=0)
    fail_from_now_on(engine, "d")
    return app


def fail_from_now_on(engine: clipper.Engine, name: str) -> None:
    def fail(batch: Any) -> Any:
        raise ZeroDivisionError

    specs = {"input": clipper.Tensor("float32", (4,)), "output": clipper.Tensor("int64")}
    engine.deploy(name, fail, **specs)


def counts(app: clipper.Application) -> dict[str, Any]:
    feedback: dict[str, Any] = app.describe()["feedback"]
    return feedback


# ---- one row -----------------------------------------------------------------------------------


def test_a_label_judges_each_model_that_answered(votes: clipper.Application) -> None:
    assert votes.feedback(votes.predict(X), label=1) is FeedbackStatus.APPLIED
    assert votes.feedback(votes.predict(X), label=2) is FeedbackStatus.APPLIED
    assert counts(votes)["mean_loss"] == {"a": 0.5, "b": 0.5, "c": 0.5, "d": None}
    assert votes.feedback(votes.predict(X), label=1) is FeedbackStatus.APPLIED
    assert counts(votes)["mean_loss"] == pytest.approx(
        {"a": 1 / 3, "b": 1 / 3, "c": 2 / 3, "d": None}
    )
    assert counts(votes)["judged"] == {"a": 3, "b": 3, "c": 3, "d": 0}


@pytest.mark.parametrize("said", [{"loss": 0.25}, {"reward": 0.75}])
def test_a_loss_or_reward_counts_for_models_that_gave_the_answer(
    votes: clipper.Application, said: dict[str, float]
) -> None:
    assert votes.feedback(votes.predict(X), **said) is FeedbackStatus.APPLIED
    assert counts(votes)["mean_loss"] == {"a": 0.25, "b": 0.25, "c": None, "d": None}


def test_a_row_has_its_feedback_once_whichever_way_it_is_named(votes: clipper.Application) -> None:
    prediction = votes.predict(X)
    assert votes.feedback(prediction.query_id, label=1) is FeedbackStatus.APPLIED
    assert votes.feedback(prediction, label=1) is FeedbackStatus.DUPLICATE
    assert votes.feedback(prediction.query_id, loss=0.0) is FeedbackStatus.DUPLICATE
    assert counts(votes)["applied"] == 1
    assert counts(votes)["duplicate"] == 2
    assert counts(votes)["judged"]["a"] == 1


def test_feedback_on_an_exceptions_prediction_is_taken(engine: clipper.Engine) -> None:
    app = judged(engine, clipper.Tensor("int64"), "zero_one", d=0)
    fail_from_now_on(engine, "d")
    with pytest.raises(clipper.ModelError) as caught:
        app.predict(X)
    assert app.feedback(caught.value.prediction, label=1) is FeedbackStatus.UNATTRIBUTED


def test_a_default_below_the_confidence_takes_a_label_but_no_reward(
    engine: clipper.Engine,
) -> None:
    deploy(engine, clipper.Tensor("int64"), a=1, b=2, c=3)
    app = engine.create_application(
        "choosy", models=["a", "b", "c"], slo=None, policy=VOTE, default=-1, min_confidence=0.6,
        loss="zero_one",
    )  # fmt: skip
    prediction = app.predict(X)
    assert prediction.why is clipper.Cause.LOW_CONFIDENCE
    assert app.feedback(prediction, reward=1.0) is FeedbackStatus.UNATTRIBUTED
    assert app.feedback(prediction, label=2) is FeedbackStatus.APPLIED
    assert counts(app)["mean_loss"] == {"a": 1.0, "b": 0.0, "c": 1.0}
    assert counts(app)["unattributed"] == 1


def test_a_default_without_any_answer_teaches_nothing(engine: clipper.Engine) -> None:
    deploy(engine, clipper.Tensor("int64"), a=1)
    app = engine.create_application("late", models=["a"], slo=None, default=-1, loss="zero_one")
    engine.undeploy("a")
    prediction = app.predict(X)
    assert prediction.why is clipper.Cause.NO_REPLICA
    assert app.feedback(prediction, label=1) is FeedbackStatus.UNATTRIBUTED
    assert app.feedback_for(X, label=1) is FeedbackStatus.UNATTRIBUTED
    assert counts(app)["judged"] == {"a": 0}


def test_feedback_comes_after_redeployment_and_after_the_model_is_gone(
    engine: clipper.Engine,
) -> None:
    app = judged(engine, clipper.Tensor("int64"), "zero_one", a=1)
    first, second = app.predict(X), app.predict(X)
    for value in (5, 6, 7):  # until the first version is unloaded
        deploy(engine, clipper.Tensor("int64"), a=value)
    assert app.feedback(first, label=1) is FeedbackStatus.APPLIED
    engine.undeploy("a")
    assert app.feedback(second.query_id, label=2) is FeedbackStatus.APPLIED
    assert counts(app)["mean_loss"] == {"a": 0.5}


@pytest.mark.parametrize("ask", ["submit", "predict_async"])
def test_every_way_of_asking_takes_feedback(votes: clipper.Application, ask: str) -> None:
    async def wait() -> clipper.Prediction:
        return await votes.predict_async(X)

    prediction = votes.submit(X).result() if ask == "submit" else asyncio.run(wait())
    assert votes.feedback(prediction, label=1) is FeedbackStatus.APPLIED
    assert votes.feedback(prediction.query_id, label=1) is FeedbackStatus.DUPLICATE


def test_feedback_is_given_from_event_loops(votes: clipper.Application) -> None:
    async def ask_and_tell() -> list[FeedbackStatus]:
        predictions = await asyncio.gather(*(votes.predict_async(X) for _ in range(20)))
        told = [*predictions, *(prediction.query_id for prediction in predictions)]
        return await asyncio.gather(*(votes.feedback_async(one, label=1) for one in told))

    statuses = asyncio.run(ask_and_tell())
    assert statuses == [FeedbackStatus.APPLIED] * 20 + [FeedbackStatus.DUPLICATE] * 20


# ---- ids ---------------------------------------------------------------------------------------


def test_forged_ids_are_unknown(votes: clipper.Application) -> None:
    query_id = votes.predict(X).query_id
    another = votes.predict(X).query_id
    forged = [
        "", "x", "é" * 40, "\ud800" * 40, "0" * 40, query_id[:-1], query_id + "0",
        query_id.upper() if query_id.upper() != query_id else "F" * 40, " " + query_id[1:],
        query_id[:24] + another[24:], query_id[:16] + "00000001" + query_id[24:],
    ]  # fmt: skip
    forged += [
        query_id[:i] + ("1" if query_id[i] != "1" else "2") + query_id[i + 1 :] for i in range(40)
    ]
    for one in forged:
        assert votes.feedback(one, label=1) is FeedbackStatus.UNKNOWN, one
    assert counts(votes)["unknown"] == len(forged)
    assert counts(votes)["judged"]["a"] == 0
    assert votes.feedback(query_id, label=1) is FeedbackStatus.APPLIED


def test_other_applications_and_engines_are_told_apart(engine: clipper.Engine) -> None:
    app = judged(engine, clipper.Tensor("int64"), "zero_one", a=1)
    other = engine.create_application("other", models=["a"], slo=None, loss="zero_one")
    prediction = app.predict(X)
    assert other.feedback(prediction, label=1) is FeedbackStatus.FOREIGN
    assert other.feedback(prediction.query_id, label=1) is FeedbackStatus.FOREIGN
    assert other.feedback(engine.model("a").predict(X), label=1) is FeedbackStatus.UNKNOWN
    with clipper.Engine() as another:
        elsewhere = judged(another, clipper.Tensor("int64"), "zero_one", a=1)
        elsewhere.predict(X)
        assert elsewhere.feedback(prediction, label=1) is FeedbackStatus.UNKNOWN
        assert elsewhere.feedback(prediction.query_id, label=1) is FeedbackStatus.UNKNOWN
    assert app.feedback(prediction, label=1) is FeedbackStatus.APPLIED


def test_ids_are_unique_among_queries_and_rows(votes: clipper.Application) -> None:
    ids = {votes.predict(X).query_id for _ in range(100)}
    many = votes.predict_many(XS)
    ids |= {many.query_id, *(prediction.query_id for prediction in many)}
    plain = votes._engine.model("a")
    ids |= {plain.predict(X).query_id for _ in range(100)}
    assert len(ids) == 100 + 6 + 100


# ---- several rows ------------------------------------------------------------------------------


def test_rows_of_one_call_are_judged_together(votes: clipper.Application) -> None:
    many = votes.predict_many(XS)
    statuses = votes.feedback_many(many, labels=[1, 1, 2, 3, 1])
    assert statuses.dtype == np.uint8
    assert (statuses == FeedbackStatus.APPLIED).all()
    assert counts(votes)["mean_loss"]["a"] == pytest.approx(0.4)
    assert votes.feedback(many[3], label=3) is FeedbackStatus.DUPLICATE
    assert (votes.feedback_many(many.query_id, losses=np.zeros(5)) == 1).all()


def test_a_row_of_a_call_is_named_by_its_prediction_and_its_id(votes: clipper.Application) -> None:
    many = votes.predict_many(XS)
    assert votes.feedback(many[1], label=1) is FeedbackStatus.APPLIED
    assert votes.feedback(many[3].query_id, label=1) is FeedbackStatus.APPLIED
    expected = [FeedbackStatus.APPLIED, FeedbackStatus.DUPLICATE] * 2 + [FeedbackStatus.APPLIED]
    assert votes.feedback_many(many, labels=np.ones(5, np.int32)).tolist() == expected


def test_predictions_and_ids_of_any_calls_are_judged_together(votes: clipper.Application) -> None:
    single, many = votes.predict(X), votes.predict_many(XS)
    mixed: list[clipper.Prediction | str] = [single, many[4].query_id, "forged", single, many[0]]
    statuses = votes.feedback_many(mixed, rewards=[1, 1, 1, 1, 0])
    assert statuses.tolist() == [0, 0, 3, 1, 0]
    assert counts(votes)["mean_loss"]["b"] == pytest.approx(1 / 3)
    assert votes.feedback_many([], labels=[]).tolist() == []


def test_more_labels_than_rows_behind_an_id_are_unknown(votes: clipper.Application) -> None:
    many = votes.predict_many(XS)
    assert votes.feedback_many(many.query_id, labels=[1] * 6).tolist() == [0] * 5 + [3]


# ---- by input ----------------------------------------------------------------------------------


def test_an_input_and_its_label_judge_every_model(engine: clipper.Engine) -> None:
    deploy(engine, clipper.Tensor("int64"), a=1, b=2)
    app = engine.create_application(
        "split", models=["a", "b"], slo=None, policy=clipper.WeightedSplit({"a": 1, "b": 0}),
        loss="zero_one",
    )  # fmt: skip
    assert app.feedback_for(X, label=2) is FeedbackStatus.APPLIED
    assert app.feedback_for_many(XS, labels=[1, 1, 1, 1, 2]).tolist() == [0] * 5
    assert counts(app)["judged"] == {"a": 6, "b": 6}
    assert counts(app)["mean_loss"] == pytest.approx({"a": 1 / 3, "b": 2 / 3})
    assert app.describe()["rows"] == 0  # nothing was served


def test_a_model_that_fails_or_is_late_is_not_judged_by_input(votes: clipper.Application) -> None:
    assert votes.feedback_for(X, label=1) is FeedbackStatus.APPLIED
    assert counts(votes)["judged"] == {"a": 1, "b": 1, "c": 1, "d": 0}
    release = threading.Event()

    def wait(batch: Any) -> Any:
        release.wait(10)
        return np.ones(len(batch), np.int64)

    engine = votes._engine
    specs = {"input": clipper.Tensor("float32", (4,)), "output": clipper.Tensor("int64")}
    engine.deploy("d", wait, **specs)
    assert votes.feedback_for(X, label=1, deadline=0.2) is FeedbackStatus.APPLIED
    release.set()
    assert counts(votes)["judged"] == {"a": 2, "b": 2, "c": 2, "d": 0}


# ---- losses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "loss", "label", "expected"),
    [
        ((clipper.Tensor("int8"), 3), "zero_one", 3, 0.0),
        ((clipper.Tensor("int8"), 3), "zero_one", np.int64(4), 1.0),
        ((clipper.Tensor("bool"), True), "zero_one", True, 0.0),
        ((clipper.Tensor("float32"), 0.1), "zero_one", 0.1, 0.0),
        ((clipper.Tensor("float32", (3,)), [0, 1, 0]), "zero_one", 1, 0.0),
        ((clipper.Tensor("float32", (3,)), [0, 1, 0]), "zero_one", 2, 1.0),
        ((clipper.Tensor("float32", (3,)), [0, 1, 0]), "zero_one", [0, 1, 0], 0.0),
        ((clipper.Tensor("float64", (1,)), [4.0]), "zero_one", 4, 0.0),
        ((clipper.Tensor("int64", (2, 2)), [[1, 2], [3, 4]]), "zero_one", [[1, 2], [3, 5]], 1.0),
        ((clipper.Tensor("complex64"), 1 + 2j), "zero_one", 1 + 2j, 0.0),
        ((clipper.Tensor("float64"), 2.5), "absolute", 2, 0.5),
        ((clipper.Tensor("float16"), 2.5), "squared", 2, 0.25),
        ((clipper.Tensor("float32"), 12.0), "absolute", 2.0, 1.0),
        ((clipper.Tensor("float32"), 12.0), Loss("absolute", scale=100), 2.0, 0.1),
        ((clipper.Tensor("float32", (2,)), [1, 5]), Loss("squared", scale=10), [2, 2], 0.05),
        ((clipper.Tensor("uint8"), 200), Loss("absolute", scale=1000), 100, 0.1),
        ((clipper.Tensor("float32", (2,)), [0.9, 0.1]), "log", 1, 1 / 3),
        ((clipper.Tensor("float32"), 0.1), "log", True, 1 / 3),
        ((clipper.Tensor("float32", (2,)), [1, 0]), "log", 1, 1.0),
        ((clipper.Tensor("float32", (2,)), [0.5, 0.5]), Loss("log", scale=np.log(2)), 0, 1.0),
        ((clipper.Tensor("float32"), np.nan), "absolute", 1.0, 1.0),
        ((clipper.Tensor("int64"), 7), lambda output, label: abs(output - label) / 10, 5, 0.2),
    ],
)
def test_each_loss_is_what_it_says(
    engine: clipper.Engine,
    outputs: tuple[clipper.Tensor, Any],
    loss: Judged,
    label: Any,
    expected: float,
) -> None:
    app = judged(engine, outputs[0], loss, a=outputs[1])
    assert app.feedback(app.predict(X), label=label) is FeedbackStatus.APPLIED
    assert counts(app)["mean_loss"]["a"] == pytest.approx(expected, abs=1e-6)
    assert app.feedback_many(app.predict_many(XS), labels=[label] * 5).tolist() == [0] * 5
    assert app.feedback_for(X, label=label) is FeedbackStatus.APPLIED
    assert app.feedback_for_many(XS, labels=[label] * 5).tolist() == [0] * 5
    assert counts(app)["judged"]["a"] == 12
    assert counts(app)["mean_loss"]["a"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("loss", ["zero_one", lambda output, label: float(output != label)])
@pytest.mark.parametrize(
    ("kind", "answer", "wrong"), [("text", "größer", "groß"), ("bytes", b"\0a", b"")]
)
def test_text_and_bytes_are_judged(
    engine: clipper.Engine, kind: str, answer: Any, wrong: Any, loss: Judged
) -> None:
    engine.deploy(
        "a", lambda batch: [answer] * len(batch),
        input=clipper.Tensor("float32", (4,)), output=clipper.Tensor(kind),
    )  # fmt: skip
    app = engine.create_application("app", models=["a"], slo=None, loss=loss)
    assert app.feedback(app.predict(X), label=answer) is FeedbackStatus.APPLIED
    assert app.feedback(app.predict(X), label=wrong) is FeedbackStatus.APPLIED
    labels = [answer, wrong, answer, wrong, wrong]
    assert app.feedback_many(app.predict_many(XS), labels=labels).tolist() == [0] * 5
    assert app.feedback_for_many(XS, labels=labels).tolist() == [0] * 5
    assert counts(app)["mean_loss"]["a"] == pytest.approx(7 / 12)


def test_several_outputs_are_judged_together(engine: clipper.Engine) -> None:
    engine.deploy(
        "a",
        lambda batch: {"n": np.full(len(batch), 3, np.int64), "t": ["x"] * len(batch)},
        input=clipper.Tensor("float32", (4,)),
        output={"n": clipper.Tensor("int64"), "t": clipper.Tensor("text")},
    )
    app = engine.create_application("app", models=["a"], slo=None, loss="zero_one")
    app.feedback(app.predict(X), label={"n": 3, "t": "x"})
    labels = {"n": np.array([3, 3, 4, 3, 4]), "t": ["x", "y", "x", "x", "z"]}
    app.feedback_many(app.predict_many(XS), labels=labels)
    assert counts(app)["mean_loss"]["a"] == pytest.approx(3 / 6)
    with pytest.raises(ValueError, match=r"the label has \['n'\]"):
        app.feedback(app.predict(X), label={"n": 3})


@pytest.mark.parametrize("result", [np.nan, -0.1, 1.1, "much", None])
def test_what_a_function_returns_is_checked_and_nothing_learned(
    engine: clipper.Engine, result: Any
) -> None:
    results = iter([0.5, result, 0.5, 0.5])
    app = judged(engine, clipper.Tensor("int64"), lambda output, label: next(results), a=1, b=2)
    prediction = app.predict(X)
    with pytest.raises((ValueError, TypeError), match="the loss function's result is"):
        app.feedback(prediction, label=1)
    assert counts(app)["judged"] == {"a": 0, "b": 0}
    assert app.feedback(prediction, label=1) is FeedbackStatus.APPLIED


def test_an_exception_in_a_function_comes_out_and_nothing_is_learned(
    engine: clipper.Engine,
) -> None:
    def fail(output: Any, label: Any) -> float:
        if label == 3:
            raise KeyError("three")
        return 0.0

    app = judged(engine, clipper.Tensor("int64"), fail, a=1)
    many = app.predict_many(XS)
    with pytest.raises(KeyError, match="three"):
        app.feedback_many(many, labels=[1, 1, 1, 1, 3])
    assert counts(app)["applied"] == 0
    assert app.feedback_many(many, labels=[1] * 5).tolist() == [0] * 5


def test_a_function_may_ask_and_collect_garbage_itself(engine: clipper.Engine) -> None:
    def nested(output: Any, label: Any) -> float:
        gc.collect()
        return float(app.predict(X).output != label)

    with clipper.Engine(feedback_memory=4096) as small:  # each prediction pushes others out
        app = judged(small, clipper.Tensor("int64"), nested, a=1, b=1, c=1)
        for _ in range(20):
            assert app.feedback(app.predict(X), label=1) is FeedbackStatus.APPLIED
        assert counts(app)["mean_loss"]["a"] == 0.0


def test_a_function_is_not_called_where_nothing_can_be_learned(engine: clipper.Engine) -> None:
    calls = []

    def note(output: Any, label: Any) -> float:
        calls.append((output, label))
        return 0.0

    app = judged(engine, clipper.Tensor("int64"), note, a=1)
    prediction = app.predict(X)
    app.feedback(prediction, label=5)
    app.feedback(prediction, label=5)
    app.feedback("forged", label=5)
    app.feedback(app.predict(X), reward=1.0)
    assert calls == [(1, 5)]


# ---- bounds ------------------------------------------------------------------------------------


def test_feedback_expires_by_memory_and_says_how_much_there_is() -> None:
    with clipper.Engine(feedback_memory="64KiB") as engine:
        app = judged(engine, clipper.Tensor("float32", (64,)), "zero_one", a=np.ones(64))
        predictions = [app.predict(X) for _ in range(1000)]
        kept = engine.describe()["feedback"]
        assert kept["memory"] == 64 << 10
        assert 0 < kept["bytes"] <= 64 << 10
        assert 64 < kept["records"] < 256
        statuses = app.feedback_many(predictions, labels=np.zeros(1000, np.int64))
        lost = 1000 - kept["records"]
        assert statuses.tolist() == [2] * lost + [0] * kept["records"]
        assert counts(app)["expired"] == lost
        wide = app.predict_many(np.zeros((500, 4), np.float32))  # more than there is memory for
        assert (app.feedback_many(wide, labels=np.zeros(500, np.int64)) == 2).all()
        assert app.feedback(wide[7].query_id, label=0) is FeedbackStatus.EXPIRED


def test_feedback_expires_by_time() -> None:
    with clipper.Engine(feedback_window=0.05) as engine:
        app = judged(engine, clipper.Tensor("int64"), "zero_one", a=1)
        assert engine.describe()["feedback"]["window"] == pytest.approx(0.05)
        prediction = app.predict(X)
        threading.Event().wait(0.06)
        assert app.feedback(prediction, label=1) is FeedbackStatus.EXPIRED
        assert app.feedback(prediction.query_id, label=1) is FeedbackStatus.EXPIRED
        assert app.feedback_for(X, label=1) is FeedbackStatus.APPLIED


@pytest.mark.parametrize("options", [{"feedback_memory": "much"}, {"feedback_window": 0.0}])
def test_bounds_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give"):
        clipper.Engine(**options)


# ---- many threads ------------------------------------------------------------------------------


def test_no_feedback_is_lost_among_eight_threads(votes: clipper.Application) -> None:
    told = [0] * 8
    start = threading.Barrier(8)

    def ask_and_tell(place: int) -> None:
        start.wait()
        for i in range(60):
            one, many = votes.predict(X), votes.predict_many(XS)
            statuses = [votes.feedback(one if i % 2 else one.query_id, label=i)]
            statuses += votes.feedback_many(many, labels=np.arange(5)).tolist()
            statuses += votes.feedback_for_many(XS[:2], labels=[1, 2]).tolist()
            told[place] += statuses.count(FeedbackStatus.APPLIED)
            assert votes.feedback(one, label=i) is FeedbackStatus.DUPLICATE

    threads = [threading.Thread(target=ask_and_tell, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == [60 * 8] * 8
    assert counts(votes)["applied"] == sum(told)
    assert counts(votes)["duplicate"] == 8 * 60
    assert counts(votes)["judged"] == {"a": sum(told), "b": sum(told), "c": sum(told), "d": 0}
    wrong = 8 * (59 + 60 * 4 + 60)  # for the first: all labels but 1
    assert counts(votes)["mean_loss"]["a"] * sum(told) == pytest.approx(wrong)


# ---- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ({}, ValueError, "nothing was given: give exactly one of label, reward and loss"),
        ({"label": 1, "loss": 0.5}, ValueError, "label and loss was given"),
        ({"loss": np.nan}, ValueError, "loss is nan: give a number from 0 to 1"),
        ({"loss": 1.5}, ValueError, "loss is 1.5"),
        ({"reward": -1}, ValueError, "reward is -1"),
        ({"reward": "good"}, TypeError, "reward is 'good'"),
        ({"label": "one"}, TypeError, "a label of <U3 was given"),
        ({"label": 1.5}, TypeError, "outputs are int64"),
        ({"label": [1, 2]}, ValueError, r"a label has shape \(2,\), but outputs have shape \(\)"),
    ],
)
def test_mistakes_are_raised_and_change_nothing(
    votes: clipper.Application, said: dict[str, Any], error: type[Exception], message: str
) -> None:
    prediction = votes.predict(X)
    with pytest.raises(error, match=message):
        votes.feedback(prediction, **said)
    assert counts(votes)["judged"] == {"a": 0, "b": 0, "c": 0, "d": 0}
    assert votes.feedback(prediction, label=1) is FeedbackStatus.APPLIED


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({}, ValueError),
        ({"labels": [1] * 4}, ValueError),
        ({"labels": 1}, TypeError),
        ({"labels": ["x"] * 5}, TypeError),
        ({"losses": [0.5] * 6}, ValueError),
        ({"losses": [0.5] * 4 + [np.nan]}, ValueError),
        ({"losses": [[0.5]] * 5}, ValueError),
        ({"rewards": ["x"] * 5}, TypeError),
        ({"rewards": [1] * 5, "labels": [1] * 5}, ValueError),
    ],
)
def test_mistakes_with_several_are_raised_and_change_nothing(
    votes: clipper.Application, said: dict[str, Any], error: type[Exception]
) -> None:
    many = votes.predict_many(XS)
    for predictions in (many, list(many)):
        with pytest.raises(error):
            votes.feedback_many(predictions, **said)
    assert counts(votes)["judged"]["a"] == 0
    assert votes.feedback_many(many, labels=[1] * 5).tolist() == [0] * 5


def test_what_names_something_else_is_refused(votes: clipper.Application) -> None:
    many = votes.predict_many(XS)
    wrong: list[Any] = [many, many.query_id, 7, b"id", None]
    for one in wrong:
        with pytest.raises((TypeError, ValueError), match=r"feedback_many|give a Prediction"):
            votes.feedback(one, label=1)
    wrong_many: list[Any] = [many[0], many[0].query_id, 7, None]
    for one in wrong_many:
        with pytest.raises((TypeError, ValueError), match=r"a single row|give Predictions"):
            votes.feedback_many(one, labels=[1])
    with pytest.raises(ValueError, match="5 rows were given, but feedback for 2"):
        votes.feedback_for_many(XS, labels=[1, 2])
    with pytest.raises(ValueError, match="no rows"):
        votes.feedback_for_many(XS[:0], labels=[])


def test_applications_that_learn_nothing_say_so(engine: clipper.Engine) -> None:
    deploy(engine, clipper.Tensor("int64"), a=1)
    model = engine.model("a")
    prediction = model.predict(X)
    for give in (
        lambda: model.feedback(prediction, label=1),
        lambda: model.feedback_many([prediction], labels=[1]),
        lambda: model.feedback_for(X, label=1),
        lambda: model.feedback_for_many(XS, labels=[1] * 5),
    ):
        with pytest.raises(ValueError, match=r"takes no feedback.*create it with"):
            give()
    assert engine.describe()["feedback"]["records"] == 0


def test_labels_that_outputs_cannot_be_are_refused(engine: clipper.Engine) -> None:
    narrow = judged(engine, clipper.Tensor("int8"), "zero_one", "narrow", n=1)
    with pytest.raises(ValueError, match="int8 cannot hold it: 300"):
        narrow.feedback(narrow.predict(X), label=300)
    classes = judged(engine, clipper.Tensor("float32", (3,)), "log", "classes", c=np.ones(3) / 3)
    for label in (-1, 3):
        with pytest.raises(ValueError, match=f"class {label}, but outputs tell classes 0 to 2"):
            classes.feedback(classes.predict(X), label=label)
    with pytest.raises(ValueError, match="takes the integers of classes"):
        classes.feedback(classes.predict(X), label=[0, 0, 1])
    with pytest.raises(TypeError, match="takes integers"):
        classes.feedback(classes.predict(X), label=1.0)
    real = judged(engine, clipper.Tensor("float32"), "absolute", "real", r=1.0)
    with pytest.raises(ValueError, match="not finite"):
        real.feedback(real.predict(X), label=np.nan)


@pytest.mark.parametrize(
    ("output", "loss", "error"),
    [
        (clipper.Tensor("text"), "absolute", ValueError),
        (clipper.Tensor("int64", (None,)), "squared", ValueError),
        (clipper.Tensor("complex64"), "absolute", ValueError),
        (clipper.Tensor("int64"), "log", ValueError),
        (clipper.Tensor("int64"), "hinge", ValueError),
        (clipper.Tensor("int64"), 7, TypeError),
    ],
)
def test_losses_that_do_not_fit_are_refused_and_leave_no_application(
    engine: clipper.Engine, output: clipper.Tensor, loss: Any, error: type[Exception]
) -> None:
    def ragged(batch: Any) -> Any:
        return ["x"] * len(batch) if output.kind == "text" else [np.zeros(1, np.int64)] * len(batch)

    call = ragged if output.is_ragged else constant(np.zeros(output.item_shape, output.dtype))
    engine.deploy("a", call, input=clipper.Tensor("float32", (4,)), output=output)
    with pytest.raises(error, match="loss"):
        engine.create_application("app", models=["a"], slo=None, loss=loss)
    engine.create_application("app", models=["a"], slo=None)


@pytest.mark.parametrize("scale", [0, -1, np.inf, np.nan])
def test_scales_that_mean_nothing_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="the scale of a loss is"):
        Loss("absolute", scale=scale)


def test_a_closed_engine_takes_no_feedback(votes: clipper.Application) -> None:
    prediction = votes.predict(X)
    votes._engine.close()
    with pytest.raises(clipper.EngineClosedError):
        votes.feedback(prediction, label=1)
    with pytest.raises(clipper.EngineClosedError):
        votes.feedback_for(X, label=1)
