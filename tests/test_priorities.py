"""The urgent are answered first, and nobody starves."""

import asyncio
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

import clipper
from clipper import load

INPUT = clipper.Tensor("int64", ())


class Gated:
    """A model that can be held in a batch, and notes in which order rows ran.

    Its batches take a while even so: priorities share the model's time, and rows that wait are owed
    their turn soon where the rest takes next to nothing.
    """

    def __init__(self) -> None:
        self.started = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.ran: list[int] = []

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.started.set()
        time.sleep(0.003)
        assert self.gate.wait(30)
        self.ran += batch.tolist()
        return batch.copy()


@pytest.fixture
def gated() -> Gated:
    return Gated()


@pytest.fixture
def model(engine: clipper.Engine, gated: Gated) -> clipper.Model:
    return engine.deploy(
        "m", gated, warmup=np.int64(-1), batching=clipper.Fixed(1), caller_runs=False
    )


def hold_a_batch(model: clipper.Model, gated: Gated) -> clipper.PredictionFuture:
    gated.ran.clear()
    gated.started.clear()
    gated.gate.clear()
    first = model.submit(0)
    assert gated.started.wait(30)
    return first


Ask = Callable[[clipper.Application, int, int | None], threading.Thread]


def by_predict(app: clipper.Application, row: int, priority: int | None) -> threading.Thread:
    return threading.Thread(target=app.predict, args=(row,), kwargs={"priority": priority})


def by_predict_many(app: clipper.Application, row: int, priority: int | None) -> threading.Thread:
    rows = np.array([row])
    return threading.Thread(target=app.predict_many, args=(rows,), kwargs={"priority": priority})


def by_submit(app: clipper.Application, row: int, priority: int | None) -> threading.Thread:
    return threading.Thread(target=lambda: app.submit(row, priority=priority).result())


def by_loop(app: clipper.Application, row: int, priority: int | None) -> threading.Thread:
    return threading.Thread(
        target=lambda: asyncio.run(app.predict_async(row, priority=priority))  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("ask", [by_predict, by_predict_many, by_submit, by_loop])
def test_every_way_of_asking_lets_the_urgent_go_first(
    model: clipper.Model, gated: Gated, ask: Ask
) -> None:
    first = hold_a_batch(model, gated)
    waiting: list[threading.Thread] = []
    for row, priority in [(1, -3), (2, None), (3, 3), (4, 1)]:
        waiting.append(ask(model, row, priority))
        waiting[-1].start()
        until = time.monotonic() + 30
        while model.describe()["versions"]["1"]["waiting_rows"] < len(waiting):
            assert time.monotonic() < until
            time.sleep(0.001)
    gated.gate.set()
    for thread in waiting:
        thread.join()
    assert first.result().output == 0
    assert gated.ran == [0, 3, 4, 2, 1]


def test_an_application_lends_its_priority_to_its_queries(
    engine: clipper.Engine, model: clipper.Model, gated: Gated
) -> None:
    low = engine.create_application("low", models=["m"], slo=None, priority=-2)
    high = engine.create_application("high", models=["m"], slo=None, priority=2)
    first = hold_a_batch(model, gated)
    futures = [low.submit(1), model.submit(2), high.submit(3), low.submit(4, priority=3)]
    gated.gate.set()
    assert [future.result().output for future in futures] == [1, 2, 3, 4]
    assert first.result().output == 0
    assert gated.ran == [0, 4, 3, 2, 1]
    assert (low.priority, model.priority, high.priority) == (-2, 0, 2)
    assert engine.describe()["applications"]["low"]["priority"] == -2


def test_a_model_deployed_with_a_priority_has_it(engine: clipper.Engine) -> None:
    model = engine.deploy("m", lambda b: b.copy(), input=INPUT, output=INPUT, priority=-1)
    assert model.priority == -1
    assert model.describe()["priority"] == -1
    assert model.predict(7).output == 7


def test_under_overload_the_urgent_are_answered_and_low_priority_gets_its_share(
    engine: clipper.Engine,
) -> None:
    def slow(batch: np.ndarray) -> np.ndarray:
        time.sleep(0.002 + 0.0005 * len(batch))
        return batch.copy()

    model = engine.deploy("slow", slow, warmup=np.int64(0), caller_runs=False)
    apps = {
        name: engine.create_application(
            name, models=["slow"], slo=0.2, default=-1, priority=priority
        )
        for name, priority in (("urgent", 2), ("patient", -2))
    }
    results: dict[str, load.LoadResult] = {}

    # Each alone asks for more than the model can do: some 1,900 rows a second.
    def ask(name: str) -> None:
        results[name] = load.run(
            apps[name], np.arange(64), load.poisson(rate=3000.0, seconds=3.0, seed=1)
        )

    threads = [threading.Thread(target=ask, args=(name,)) for name in apps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    urgent, patient = (int(results[name].answered.sum()) for name in ("urgent", "patient"))
    assert urgent > 2 * patient, (urgent, patient)
    # A tenth of what the urgent get, by the model's time; most of that is left to the machine.
    assert patient > 0.02 * urgent, (urgent, patient)
    statistics = model.describe()["versions"]["1"]
    assert statistics["outstanding_rows"] == 0


@pytest.mark.parametrize(
    ("priority", "error"),
    [(4, ValueError), (-4, ValueError), (10**30, ValueError), (0.5, TypeError), ("high", TypeError),
     (True, TypeError)],
)  # fmt: skip
def test_a_priority_that_is_none_is_refused(
    engine: clipper.Engine, priority: object, error: type[Exception]
) -> None:
    told = "priority.*from -3 to 3"
    with pytest.raises(error, match=told):
        engine.deploy("m", lambda b: b, input=INPUT, output=INPUT, priority=priority)
    assert engine.describe()["models"] == {}
    model = engine.deploy("m", lambda b: b.copy(), input=INPUT, output=INPUT)
    with pytest.raises(error, match=told):
        engine.create_application("a", models=["m"], slo=None, priority=priority)
    for ask in (model.predict, model.submit):
        with pytest.raises(error, match=told):
            ask(1, priority=priority)
    with pytest.raises(error, match=told):
        model.predict_many(np.array([1]), priority=priority)

    async def ask_in_loop() -> None:
        await model.predict_async(1, priority=priority)

    with pytest.raises(error, match=told):
        asyncio.run(ask_in_loop())
    assert model.describe()["versions"]["1"]["outstanding_rows"] == 0
