"""Feedback: by prediction, id or input; of one row or several; counted, and never lost."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

import clipper
from clipper import FeedbackStatus

from .scene import VOTE, XS, X, counts, deploy, fail_from_now_on, judged

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
