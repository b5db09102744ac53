"""The ways of asking, and the life of models, on real engines."""

import asyncio
import concurrent.futures
import threading
import time

import numpy as np
import pytest

import clipper

WIDTH = 16


def total(batch: np.ndarray) -> np.ndarray:
    return batch.sum(axis=1)


def rows_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, WIDTH), dtype=np.float32)


@pytest.fixture
def model(engine: clipper.Engine) -> clipper.Model:
    return engine.deploy("total", total, warmup=np.ones(WIDTH, np.float32))


def test_every_way_of_asking_gives_the_models_own_answer(model: clipper.Model) -> None:
    rows = rows_of(20)
    expected = total(rows)
    assert [model.predict(row).output for row in rows] == list(expected)
    np.testing.assert_array_equal(model.predict_many(rows).output, expected)
    futures = [model.submit(row) for row in rows]
    assert [future.result().output for future in futures] == list(expected)

    async def ask_all() -> list[clipper.Prediction]:
        return await asyncio.gather(*(model.predict_async(row) for row in rows))

    assert [p.output for p in asyncio.run(ask_all())] == list(expected)


def test_a_prediction_says_how_it_came_about(model: clipper.Model) -> None:
    prediction = model.predict(rows_of(1)[0])
    assert not prediction.is_default
    assert prediction.why is None
    assert prediction.confidence == 1.0
    assert prediction.models == {"total": 1}
    assert prediction.missing == {}
    assert 0.0 < prediction.latency < 60.0
    assert sum(prediction.latency_parts.values()) == pytest.approx(prediction.latency)
    assert prediction.query_id != model.predict(rows_of(1)[0]).query_id


def test_a_batch_is_read_only_and_is_never_overwritten_while_it_is_kept(
    engine: clipper.Engine,
) -> None:
    kept: list[np.ndarray] = []

    def keep(batch: np.ndarray) -> np.ndarray:
        kept.append(batch)
        return batch.sum(axis=1)

    model = engine.deploy(
        "keep", keep, input=clipper.Tensor("float32", (WIDTH,)),
        output=clipper.Tensor("float32"), warmup=False,
    )  # fmt: skip
    rows = rows_of(300)
    for row in rows:
        model.predict(row)
    assert all(not batch.flags.writeable for batch in kept)
    np.testing.assert_array_equal(np.concatenate(kept), rows)


def test_rows_waiting_together_run_as_one_batch(engine: clipper.Engine) -> None:
    gate = threading.Event()
    sizes: list[int] = []

    def slow(batch: np.ndarray) -> np.ndarray:
        gate.wait(10)
        sizes.append(len(batch))
        return batch.sum(axis=1)

    model = engine.deploy(
        "slow", slow, input=clipper.Tensor("float32", (WIDTH,)), output=clipper.Tensor("float32"),
        batching=clipper.Fixed(64), caller_runs=False,
    )  # fmt: skip
    rows = rows_of(65)
    futures = [model.submit(rows[0])]
    while model.describe()["versions"]["1"]["waiting_rows"]:
        time.sleep(0.001)
    futures += [model.submit(row) for row in rows[1:]]
    gate.set()
    assert [f.result().output for f in futures] == list(total(rows))
    assert sizes == [1, 64]


def test_without_a_default_a_missed_deadline_raises(engine: clipper.Engine) -> None:
    gate = threading.Event()
    model = engine.deploy(
        "stuck", lambda batch: gate.wait(10) and batch, input=clipper.Tensor("int64"),
        output=clipper.Tensor("int64"), caller_runs=False,
    )  # fmt: skip
    started = time.monotonic()
    with pytest.raises(clipper.DeadlineExceededError) as caught:
        model.predict(1, deadline=0.05)
    assert time.monotonic() - started < 5.0
    assert caught.value.prediction.why is clipper.Cause.DEADLINE
    future = model.submit(2, deadline=0.05)
    assert isinstance(future.exception(timeout=5), clipper.DeadlineExceededError)
    gate.set()


def test_with_a_default_nothing_is_raised(engine: clipper.Engine) -> None:
    def broken(batch: np.ndarray) -> np.ndarray:
        raise OSError("disk on fire")

    model = engine.deploy(
        "broken", broken, input=clipper.Tensor("int64"), output=clipper.Tensor("int64"),
        default=-1, batching=clipper.Fixed(8),
    )  # fmt: skip
    prediction = model.predict(1)
    assert prediction.is_default
    assert prediction.output == -1
    assert prediction.why is clipper.Cause.MODEL_ERROR
    assert prediction.missing == {"broken": clipper.Cause.MODEL_ERROR}
    many = model.predict_many(np.arange(3))
    assert list(many.output) == [-1, -1, -1]
    assert many.why == [clipper.Cause.MODEL_ERROR] * 3
    assert many[1].is_default
    assert any("disk on fire" in text for text in model.errors)
    assert engine.describe()["models"]["broken"]["versions"]["1"]["errors"] == {"OSError": 2}


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda b: b[:-1], "outputs for 1 inputs"),
        (lambda b: b.astype("float64"), "returned float64"),
        (lambda b: None, "returned None"),
        (lambda b: b[:, None], "shape"),
    ],
)
def test_a_wrong_output_fails_its_batch_by_name_and_serving_goes_on(
    engine: clipper.Engine, returned: object, told: str
) -> None:
    wrong = [True]
    model = engine.deploy(
        "odd", lambda b: returned(b) if wrong[0] else b, input=clipper.Tensor("int64"),
        output=clipper.Tensor("int64"),
    )  # fmt: skip
    with pytest.raises(clipper.ModelError, match=told) as caught:
        model.predict(1)
    assert "odd" in str(caught.value)
    wrong[0] = False
    assert model.predict(7).output == 7


def test_a_majority_answers_and_its_share_is_the_confidence(engine: clipper.Engine) -> None:
    for name, answer in (("a", 1), ("b", 2), ("c", 2)):
        engine.deploy(name, lambda b, answer=answer: np.full(len(b), answer), warmup=np.int64(0))
    vote = engine.create_application(
        "vote", models=["a", "b", "c"], slo=1.0, policy=clipper.MajorityVote(), default=None
    )
    prediction = vote.predict(5)
    assert prediction.output == 2
    assert prediction.confidence == pytest.approx(2 / 3)
    assert prediction.models == {"a": 1, "b": 1, "c": 1}
    assert list(vote.predict_many([1, 2, 3]).output) == [2, 2, 2]
    engine.undeploy("b")
    engine.undeploy("c")
    prediction = vote.predict(5)
    assert prediction.output == 1
    assert prediction.confidence == pytest.approx(1 / 3)
    assert prediction.missing == {}  # an undeployed model was never asked


def test_a_split_follows_its_weights_and_sticks_to_contexts(engine: clipper.Engine) -> None:
    for name, answer in (("old", 0), ("new", 1)):
        engine.deploy(name, lambda b, answer=answer: np.full(len(b), answer), warmup=np.int64(0))
    split = engine.create_application(
        "split", models=["old", "new"], slo=None,
        policy=clipper.WeightedSplit({"new": 0.25, "old": 0.75}),
    )  # fmt: skip
    share = np.mean([split.predict(0).output for _ in range(2000)])
    assert 0.15 < share < 0.35
    for user in range(20):
        assert len({split.predict(0, context=user).output for _ in range(5)}) == 1


def test_a_new_version_takes_over_and_rollback_returns_without_losing_a_query(
    engine: clipper.Engine,
) -> None:
    def versioned(answer: int) -> object:
        return lambda batch: np.full(len(batch), answer)

    model = engine.deploy("m", versioned(1), warmup=np.int64(0))
    stop = threading.Event()
    answers: list[int] = []

    def ask() -> None:
        while not stop.is_set():
            answers.append(int(model.predict(0).output))

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    engine.deploy("m", versioned(2), warmup=np.int64(0))
    assert model.version == 2
    assert model.rollback() == 1
    assert int(model.predict(0).output) == 1
    engine.deploy("m", versioned(3), version=3, warmup=np.int64(0))
    assert int(model.predict(0).output) == 3
    stop.set()
    for asker in askers:
        asker.join(10)
    assert set(answers) <= {1, 2, 3}
    with pytest.raises(clipper.AlreadyExistsError, match="version 3"):
        engine.deploy("m", versioned(3), version=3, warmup=np.int64(0))


def test_cancelling_withdraws_the_row(engine: clipper.Engine) -> None:
    gate = threading.Event()
    seen: list[int] = []

    def watch(batch: np.ndarray) -> np.ndarray:
        gate.wait(10)
        seen.extend(int(row) for row in batch)
        return batch

    model = engine.deploy(
        "watch", watch, input=clipper.Tensor("int64"), output=clipper.Tensor("int64"),
        batching=clipper.Fixed(1), caller_runs=False,
    )  # fmt: skip
    first, second, third = (model.submit(i) for i in (1, 2, 3))
    assert second.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        second.result()

    async def time_out() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(model.predict_async(4), 0.05)

    asyncio.run(time_out())
    gate.set()
    assert (first.result().output, third.result().output) == (1, 3)
    engine.undeploy("watch")
    assert seen == [1, 3]


def test_callbacks_run_once_before_and_after_the_answer(model: clipper.Model) -> None:
    called = threading.Semaphore(0)
    future = model.submit(rows_of(1)[0])
    future.add_done_callback(lambda done: called.release())
    assert called.acquire(timeout=5)
    future.add_done_callback(lambda done: called.release())
    assert called.acquire(timeout=5)
    assert future.result().output == total(rows_of(1))[0]


def test_a_model_that_asks_itself_is_refused(engine: clipper.Engine) -> None:
    def recursive(batch: np.ndarray) -> np.ndarray:
        engine.model("loop").predict(1)
        return batch

    model = engine.deploy(
        "loop", recursive, input=clipper.Tensor("int64"), output=clipper.Tensor("int64")
    )
    with pytest.raises(clipper.ModelError, match="asked itself"):
        model.predict(1)


def test_a_closed_engine_refuses_and_ends_what_waits() -> None:
    engine = clipper.Engine()
    gate = threading.Event()
    model = engine.deploy(
        "m", lambda b: [gate.wait(1)] * len(b), input=clipper.Tensor("int64"),
        output=clipper.Tensor("int64"),
    )  # fmt: skip
    future = model.submit(1)
    engine.close()
    assert isinstance(future.exception(timeout=5), clipper.PredictionCancelledError)
    with pytest.raises(clipper.EngineClosedError, match="closed"):
        model.predict(1)
    engine.close()


def test_an_undeployed_model_is_a_cause_in_every_way_of_asking(engine: clipper.Engine) -> None:
    model = engine.deploy("m", lambda b: b, warmup=np.int64(0), default=-1)
    engine.undeploy("m")
    for prediction in (model.predict(1), model.predict_many([1, 2])[0]):
        assert prediction.output == -1
        assert prediction.why is clipper.Cause.NO_REPLICA
        assert prediction.models == prediction.missing == {}


def test_a_model_that_stalled_is_probed_and_serves_again(engine: clipper.Engine) -> None:
    stalled = [0]

    def stalling(batch: np.ndarray) -> np.ndarray:
        if stalled[0] > 0:
            stalled[0] -= 1
            time.sleep(0.03)
        return batch

    model = engine.deploy("s", stalling, warmup=np.int64(0), slo=0.02, default=-1)
    stalled[0] = 5
    until = time.monotonic() + 20
    in_a_row = 0
    while in_a_row < 50 and time.monotonic() < until:
        in_a_row = 0 if model.predict(1).is_default else in_a_row + 1
        time.sleep(0.001)
    assert stalled[0] == 0
    assert in_a_row == 50


def test_rows_of_an_undeployed_model_are_zeros_without_a_default(engine: clipper.Engine) -> None:
    wide = clipper.Tensor("float64", (50,))
    model = engine.deploy("wide", lambda b: b, input=wide, output=wide)
    engine.undeploy("wide")
    many = model.predict_many(np.ones((40, 50)))
    assert many.why == [clipper.Cause.NO_REPLICA] * 40
    assert many.output.shape == (40, 50)
    assert not many.output.any()


def test_a_name_deployed_again_with_other_specs_leaves_old_applications_alone(
    engine: clipper.Engine,
) -> None:
    engine.deploy("m", lambda b: b, warmup=np.int64(0))
    old = engine.create_application("old", models=["m"], slo=None, default=-1)
    engine.undeploy("m")
    engine.deploy("m", lambda b: b.sum(axis=1), warmup=np.ones(1000))
    assert old.predict(1).why is clipper.Cause.NO_REPLICA
    assert engine.model("m").predict(np.ones(1000)).output == 1000
    engine.undeploy("m")
    engine.deploy("m", lambda b: b.sum(axis=1), warmup=np.ones(1000))
    new = engine.create_application("new", models=["m"], slo=None)
    assert new.predict(np.ones(1000)).output == 1000
    assert engine.model("m").batch_bound(1) > 0.0


def test_the_same_specs_under_a_name_serve_its_applications_again(engine: clipper.Engine) -> None:
    engine.deploy("m", lambda b: b, warmup=np.int64(0))
    application = engine.create_application("a", models=["m"], slo=None, default=-1)
    engine.undeploy("m")
    engine.deploy("m", lambda b: b + 1, warmup=np.int64(0))
    assert application.predict(1).output == 2
