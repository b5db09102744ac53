"""What it costs that feedback lasts: in batches, from many callers, and beside SQLite alone."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import clipper

ROWS = 1000
CALLERS = 32
EACH = 25
BATCHED = {"group": f"{ROWS} observations in one group"}
ALONE = {"group": "one observation"}
CONCURRENT = {"group": f"{CALLERS * EACH} observations of {CALLERS} callers"}
ROUNDS = {"rounds": 20, "warmup_rounds": 1}
ENTRY = bytes(29)  # what one model's observation takes in the journal


def _constant(number: int) -> Callable[[NDArray[np.float64]], NDArray[np.int64]]:
    return lambda batch: np.full(len(batch), number, np.int64)


@pytest.fixture(params=["lasts", "in_memory"])
def application(request: Any, tmp_path: Path) -> Iterator[clipper.Application]:
    data = tmp_path if request.param == "lasts" else None
    with clipper.Engine(data=data) as engine:
        for n in range(2):
            engine.deploy(str(n), _constant(n), warmup=[1.0])
        yield engine.create_application(
            "app", models=["0", "1"], slo=None, policy=clipper.Ucb1(), context_memory="64MiB"
        )


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(tmp_path / "alone.sqlite3", isolation_level=None)
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("CREATE TABLE journal (number INTEGER PRIMARY KEY, entry BLOB)")
    yield database
    database.close()


@pytest.mark.benchmark(**BATCHED)
def bench_batched_feedback(benchmark: Any, application: clipper.Application) -> None:
    def ask() -> tuple[tuple[Any], dict[str, Any]]:
        return (application.predict_many(np.ones((ROWS, 1)), context="user"),), {}

    losses = np.full(ROWS, 0.5, np.float32)
    benchmark.pedantic(
        lambda made: application.feedback_many(made, losses=losses), setup=ask, **ROUNDS
    )
    assert set(application.describe()["feedback"]["judged"]) == {"0", "1"}
    assert application.describe()["feedback"]["applied"] == 21 * ROWS or not benchmark.enabled


@pytest.mark.benchmark(**BATCHED)
def bench_batched_sqlite_alone(benchmark: Any, sqlite: sqlite3.Connection) -> None:
    def write() -> None:
        sqlite.execute("BEGIN IMMEDIATE")
        sqlite.executemany("INSERT INTO journal (entry) VALUES (?)", ((ENTRY,),) * ROWS)
        sqlite.execute("COMMIT")

    benchmark.pedantic(write, **ROUNDS)
    assert sqlite.execute("SELECT count(*) FROM journal").fetchone()[0] >= ROWS


@pytest.mark.benchmark(**ALONE)
def bench_one_feedback(benchmark: Any, application: clipper.Application) -> None:
    def ask() -> tuple[tuple[Any], dict[str, Any]]:
        return (application.predict([1.0], context="user"),), {}

    said = benchmark.pedantic(
        lambda made: application.feedback(made, loss=0.5), setup=ask, rounds=500, warmup_rounds=5
    )
    assert said is clipper.FeedbackStatus.APPLIED


@pytest.mark.benchmark(**ALONE)
def bench_one_sqlite_alone(benchmark: Any, sqlite: sqlite3.Connection) -> None:
    benchmark.pedantic(
        lambda: sqlite.execute("INSERT INTO journal (entry) VALUES (?)", (ENTRY,)),
        rounds=500, warmup_rounds=5,
    )  # fmt: skip
    assert sqlite.execute("SELECT count(*) FROM journal").fetchone()[0] >= 1


@pytest.mark.benchmark(**CONCURRENT)
def bench_feedback_of_threads(benchmark: Any, application: clipper.Application) -> None:
    def ask() -> tuple[tuple[Any], dict[str, Any]]:
        made = [application.predict([1.0], context=i) for i in range(CALLERS * EACH)]
        return (made,), {}

    def feed(made: list[clipper.Prediction]) -> None:
        def say(own: list[clipper.Prediction]) -> None:
            for prediction in own:
                application.feedback(prediction, loss=0.5)

        threads = [threading.Thread(target=say, args=(made[i::CALLERS],)) for i in range(CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    benchmark.pedantic(feed, setup=ask, **ROUNDS)
    assert application.describe()["feedback"]["applied"] % (CALLERS * EACH) == 0


@pytest.mark.benchmark(**CONCURRENT)
def bench_feedback_of_coroutines(benchmark: Any, application: clipper.Application) -> None:
    def ask() -> tuple[tuple[Any], dict[str, Any]]:
        made = [application.predict([1.0], context=i) for i in range(CALLERS * EACH)]
        return (made,), {}

    async def feed(made: list[clipper.Prediction]) -> None:
        await asyncio.gather(*(application.feedback_async(p, loss=0.5) for p in made))

    benchmark.pedantic(lambda made: asyncio.run(feed(made)), setup=ask, **ROUNDS)
    assert application.describe()["feedback"]["applied"] % (CALLERS * EACH) == 0
