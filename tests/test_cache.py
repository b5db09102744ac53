"""Equal inputs are answered once, unequal ones never from each other's answers."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import clipper

NUMBER = clipper.Tensor("int64", ())


class Counted:
    """A model that notes every row it runs, and can be held in a batch or made to fail."""

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.started = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.ran += batch.tolist()
        self.started.set()
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return batch * 10


@pytest.fixture
def counted() -> Counted:
    return Counted()


def deployed(engine: clipper.Engine, counted: Counted, **options: Any) -> clipper.Model:
    model = engine.deploy(
        "m", counted, input=NUMBER, output=NUMBER, **{"cache": True, "warmup": 0, **options}
    )
    counted.ran.clear()
    counted.started.clear()
    return model


def ways_of_asking(model: clipper.Model, **options: Any) -> list[Callable[[], int]]:
    async def awaited() -> int:
        return int((await model.predict_async(7, **options)).output)

    return [
        lambda: int(model.predict(7, **options).output),
        lambda: int(model.predict_many([7], **options).output[0]),
        lambda: int(model.submit(7, **options).result().output),
        lambda: asyncio.run(awaited()),
        lambda: int(asyncio.run(model.predict_async(7, **options)).output),
    ]


def cache_of(model: clipper.Model) -> dict[str, Any]:
    counters: dict[str, Any] = model.describe()["cache"]
    return counters


def test_a_repeated_input_is_answered_without_the_model_however_it_is_asked(
    engine: clipper.Engine, counted: Counted
) -> None:
    model = deployed(engine, counted)
    answers = [ask() for _ in range(2) for ask in ways_of_asking(model)]
    assert answers == [70] * 10
    assert counted.ran == [7]
    counters = cache_of(model)
    assert (counters["hits"], counters["misses"], counters["entries"]) == (9, 1, 1)
    assert counters["hit_rate"] == 9 / 10
    assert 0 < counters["bytes"] <= counters["max_bytes"] == 64 << 20


def test_without_a_cache_every_query_is_evaluated(engine: clipper.Engine, counted: Counted) -> None:
    model = deployed(engine, counted, cache=False)
    assert [ask() for ask in ways_of_asking(model)] == [70] * 5
    assert counted.ran == [7] * 5
    assert model.describe()["cache"] is None
    model.clear_cache()


def test_who_bypasses_the_cache_neither_reads_nor_fills_it(
    engine: clipper.Engine, counted: Counted
) -> None:
    model = deployed(engine, counted)
    assert [ask() for ask in ways_of_asking(model, bypass_cache=True)] == [70] * 5
    assert cache_of(model)["entries"] == 0
    model.predict(7)
    assert [ask() for ask in ways_of_asking(model, bypass_cache=True)] == [70] * 5
    assert counted.ran == [7] * 11
    assert cache_of(model)["hits"] == 0


def test_a_hit_says_where_it_comes_from_like_any_answer(
    engine: clipper.Engine, counted: Counted
) -> None:
    model = deployed(engine, counted, version="v7")
    model.predict(7)
    hit = model.predict(7)
    assert hit.models == {"m": "v7"}
    assert (hit.confidence, hit.is_default, hit.why) == (1.0, False, None)
    assert hit.latency >= 0


def test_rows_of_one_call_keep_their_order_whatever_becomes_of_each(
    engine: clipper.Engine, counted: Counted
) -> None:
    model = deployed(engine, counted)
    model.predict_many([1, 2, 3])
    rows = [9, 1, 8, 9, 2, 2, 7, 3, 8]
    assert model.predict_many(rows).output.tolist() == [10 * row for row in rows]
    assert sorted(counted.ran) == [1, 2, 3, 7, 8, 9]


@pytest.mark.parametrize("caller_runs", [True, False])
def test_equal_inputs_of_the_same_moment_are_evaluated_once(
    engine: clipper.Engine, counted: Counted, caller_runs: bool
) -> None:
    model = deployed(engine, counted, caller_runs=caller_runs, slo=30)
    counted.gate.clear()
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda ask=ask: answers.append(ask()))
        for ask in 3 * ways_of_asking(model)
    ]
    for thread in threads:
        thread.start()
    assert counted.started.wait(30)
    counted.gate.set()
    for thread in threads:
        thread.join(30)
    assert answers == [70] * 15
    assert counted.ran == [7]


def test_equal_inputs_of_one_turn_of_a_loop_are_evaluated_once(
    engine: clipper.Engine, counted: Counted
) -> None:
    model = deployed(engine, counted, slo=30)

    async def ask() -> list[int]:
        predictions = await asyncio.gather(*(model.predict_async(i % 3) for i in range(30)))
        return [int(prediction.output) for prediction in predictions]

    assert asyncio.run(ask()) == [10 * (i % 3) for i in range(30)]
    assert sorted(counted.ran) == [0, 1, 2]
    assert cache_of(model)["joined"] == 27


def test_cancelling_one_of_those_who_wait_harms_no_other(
    engine: clipper.Engine, counted: Counted
) -> None:
    model = deployed(engine, counted, caller_runs=False)
    counted.gate.clear()
    blocker = model.submit(1)
    assert counted.started.wait(30)
    futures = [model.submit(7) for _ in range(4)]  # behind the batch that is held
    assert futures[0].cancel()  # whose row it was
    assert futures[2].cancel()
    counted.gate.set()
    assert int(futures[1].result(30).output) == int(futures[3].result(30).output) == 70
    assert int(blocker.result(30).output) == 10
    assert counted.ran == [1, 7]


def test_an_error_reaches_all_who_wait_and_is_not_kept(
    engine: clipper.Engine, counted: Counted
) -> None:
    model = deployed(engine, counted, caller_runs=False)
    counted.gate.clear()
    counted.error = ArithmeticError("seven again")
    futures = [model.submit(7) for _ in range(5)]
    assert counted.started.wait(30)
    futures.append(model.submit(7))
    counted.gate.set()
    for future in futures:
        error = future.exception(30)
        assert isinstance(error, clipper.ModelError)
        assert "seven again" in str(error)
    assert counted.ran == [7]
    assert cache_of(model)["entries"] == 0
    counted.error = None
    assert model.predict(7).output == 70


def test_an_answer_that_came_too_late_is_there_for_the_next(
    engine: clipper.Engine, counted: Counted
) -> None:
    model = deployed(engine, counted, caller_runs=False)
    counted.gate.clear()
    future = model.submit(7, deadline=0.05)
    assert counted.started.wait(30)
    assert isinstance(future.exception(30), clipper.DeadlineExceededError)
    second = model.submit(7)
    counted.gate.set()
    assert second.result(30).output == 70
    assert model.predict(7).output == 70
    assert counted.ran == [7]


def test_answers_are_good_for_as_long_as_was_said(engine: clipper.Engine, counted: Counted) -> None:
    model = deployed(engine, counted, cache=clipper.Cache(ttl=1e-9))
    for _ in range(3):
        assert model.predict(7).output == 70
    assert counted.ran == [7, 7, 7]
    model = deployed(engine, counted, cache=clipper.Cache(ttl=3600))
    for _ in range(3):
        assert model.predict(7).output == 70
    assert counted.ran == [7]
    assert cache_of(model)["ttl"] == 3600


def test_a_cleared_cache_knows_nothing(engine: clipper.Engine, counted: Counted) -> None:
    model = deployed(engine, counted)
    model.predict(7)
    model.clear_cache()
    assert (cache_of(model)["entries"], cache_of(model)["bytes"]) == (0, 0)
    model.predict(7)
    assert counted.ran == [7, 7]


def test_what_was_asked_before_a_clear_is_not_kept(
    engine: clipper.Engine, counted: Counted
) -> None:
    model = deployed(engine, counted, caller_runs=False)
    counted.gate.clear()
    before = model.submit(7)
    assert counted.started.wait(30)
    model.clear_cache()
    after = model.submit(7)
    counted.gate.set()
    assert before.result(30).output == after.result(30).output == 70
    assert counted.ran == [7, 7]


def test_another_version_answers_for_itself_at_once_and_so_does_the_former(
    engine: clipper.Engine, counted: Counted
) -> None:
    model = deployed(engine, counted)
    assert model.predict(7).output == 70
    engine.deploy("m", lambda batch: batch * 100, input=NUMBER, output=NUMBER, cache=True)
    assert model.predict(7).output == 700
    first, second = model.describe()["versions"].values()
    assert (first["cache"]["entries"], first["cache"]["bytes"]) == (0, 0)
    assert second["cache"]["entries"] == 1
    model.rollback()
    assert model.predict(7).output == 70
    assert counted.ran == [7, 7]
    engine.undeploy("m")
    again = deployed(engine, counted)
    assert again.predict(7).output == 70
    assert counted.ran == [7]


def test_a_model_that_is_asked_by_several_applications_has_one_cache(
    engine: clipper.Engine, counted: Counted
) -> None:
    model = deployed(engine, counted)
    first = engine.create_application("first", models=["m"], slo=30)
    second = engine.create_application("second", models=["m"], slo=None)
    assert first.predict(7).output == second.predict(7).output == model.predict(7).output == 70
    assert counted.ran == [7]


def test_an_ensemble_finds_each_model_s_own_answer(engine: clipper.Engine) -> None:
    ran: list[str] = []

    def answering(name: str, factor: int) -> Callable[[np.ndarray], np.ndarray]:
        def model(batch: np.ndarray) -> np.ndarray:
            ran.append(name)
            return batch * factor

        return model

    for name, factor, cache in [("a", 2, True), ("b", 3, True), ("c", 2, False)]:
        engine.deploy(name, answering(name, factor), input=NUMBER, output=NUMBER, cache=cache)
    votes = engine.create_application(
        "votes", models=["a", "b", "c"], slo=None, policy=clipper.MajorityVote()
    )
    for _ in range(3):
        assert votes.predict(7).output == 14
    assert sorted(ran) == ["a", "b", "c", "c", "c"]


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ("yes", "cache is 'yes': give True, False, or clipper.Cache"),
        (3600, "cache is 3600"),
    ],
)
def test_what_is_no_cache_is_refused(
    engine: clipper.Engine, counted: Counted, cache: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        deployed(engine, counted, cache=cache)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ttl": 0}, "ttl.* is 0: give seconds above 0"),
        ({"ttl": -1.0}, "give seconds above 0"),
        ({"ttl": float("nan")}, "give seconds above 0"),
        ({"ttl": "1h"}, "give seconds above 0"),
        ({"bytes": "much"}, "'much' is no size"),
        ({"bytes": 0}, "0 is no size"),
        ({"bytes": "2048GiB"}, "at most 1 TiB"),
    ],
)
def test_limits_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clipper.Cache(**options)


def test_a_cache_too_small_for_one_answer_is_refused_with_what_it_needs(
    engine: clipper.Engine, counted: Counted
) -> None:
    with pytest.raises(ValueError, match="a cache of 10 bytes holds no answer of 8 bytes"):
        deployed(engine, counted, cache=clipper.Cache(bytes=10))
    assert deployed(engine, counted).predict(7).output == 70


FILL = """
import gc, os, sys
import numpy as np
import psutil
import clipper

limit, kind = int(sys.argv[1]), sys.argv[2]

def floats(batch):
    return np.repeat(batch[:, None].astype(np.float32), 200, axis=1)

def texts(batch):
    return [str(number) * (1 + number % 100) for number in batch.tolist()]

def resident():
    gc.collect()
    return psutil.Process(os.getpid()).memory_info().rss

with clipper.Engine() as engine:
    model = engine.deploy(
        "m", floats if kind == "floats" else texts, input=clipper.Tensor("int64"),
        output=clipper.Tensor("float32", (200,)) if kind == "floats" else clipper.Tensor("text"),
        cache=clipper.Cache(bytes=limit), memory="4MiB",
    )
    for start in range(0, 20_000, 500):  # whatever allocators and blocks take
        model.predict_many(np.arange(-20_000 + start, -19_500 + start), bypass_cache=True)
    before = resident()
    for start in range(0, 200_000, 500):
        model.predict_many(np.arange(start, start + 500))
    counters = model.describe()["cache"]
    after = resident()
    model.clear_cache()
    print(after - before, counters["bytes"], counters["evictions"], resident() - before)
"""


@pytest.mark.parametrize("kind", ["floats", "texts"])
def test_a_full_cache_takes_the_memory_that_it_was_given(kind: str) -> None:
    limit = 24 << 20
    made = subprocess.run(
        [sys.executable, "-c", FILL, str(limit), kind], capture_output=True, text=True, check=True
    )
    grown, counted, evictions, left = map(int, made.stdout.split())
    assert evictions > 1000
    assert 0.95 * limit < counted <= limit
    assert grown <= 1.2 * limit
    assert grown >= 0.5 * limit  # else something else was measured
    assert left <= 0.2 * limit
