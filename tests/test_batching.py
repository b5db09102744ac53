"""Every batching strategy serves, by its class and by its shorthand."""

import itertools
import threading
import time
from typing import Any

import numpy as np
import pytest

import clipper

STRATEGIES = [
    clipper.Fixed(8),
    clipper.Aimd(),
    clipper.Quantile(),
    clipper.Deadline(max_batch=64),
    "aimd",
    "quantile",
    "deadline",
]


@pytest.mark.parametrize("batching", STRATEGIES, ids=repr)
def test_every_strategy_answers_each_row_with_its_own_output(batching) -> None:
    with clipper.Engine() as engine:
        model = engine.deploy(
            "double",
            lambda batch: batch * 2,
            input=clipper.Tensor("float32", (3,)),
            output=clipper.Tensor("float32", (3,)),
            batching=batching,
        )
        failures: list[int] = []

        def ask(start: int) -> None:
            for i in range(start, start + 100):
                row = np.full(3, i, dtype=np.float32)
                if not np.array_equal(model.predict(row).output, row * 2):
                    failures.append(i)

        threads = [threading.Thread(target=ask, args=(1000 * t,)) for t in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


def test_an_unknown_strategy_is_refused_with_those_there_are() -> None:
    with clipper.Engine() as engine, pytest.raises(ValueError, match="quantile"):
        engine.deploy("m", lambda batch: batch, warmup=[1.0], batching="quantil")


# ---- changes while serving ---------------------------------------------------------------------

ROW = clipper.Tensor("int64", ())


class Noting:
    """Echoes its rows and notes the size of each batch."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.sizes.append(len(batch))
        return batch.copy()


def state(model: clipper.Model) -> dict[str, Any]:
    return model.describe()["versions"][str(model.version)]


def test_batches_are_as_large_as_the_strategy_of_the_moment_allows(
    engine: clipper.Engine,
) -> None:
    noting = Noting()
    model = engine.deploy("m", noting, input=ROW, output=ROW, batching=clipper.Fixed(16))
    rows = np.arange(64)
    for batching, largest in [
        (clipper.Fixed(16), 16), (clipper.Fixed(5), 5), (clipper.Deadline(max_batch=3), 3),
        (clipper.Fixed(64), 64),
    ]:  # fmt: skip
        model.set_batching(batching)
        noting.sizes.clear()
        np.testing.assert_array_equal(model.predict_many(rows).output, rows)
        assert max(noting.sizes) == largest
        assert state(model)["batching"] == repr(batching)
        assert state(model)["max_batch"] == largest
    model.set_batching("aimd")
    assert state(model)["batching"] == "Aimd()"


def test_what_batches_take_stays_known(engine: clipper.Engine) -> None:
    model = engine.deploy("m", lambda batch: batch.copy(), warmup=np.int64(0))
    bounds = [model.batch_bound(rows) for rows in (1, 8, 64)]
    assert all(bound > 0 for bound in bounds)
    for batching in STRATEGIES:
        model.set_batching(batching)
        assert [model.batch_bound(rows) for rows in (1, 8, 64)] == bounds


def test_no_query_is_lost_when_the_strategy_changes_under_load(engine: clipper.Engine) -> None:
    model = engine.deploy("m", lambda batch: batch * 2, input=ROW, output=ROW, replicas=2)
    wrong: list[int] = []
    asked: list[int] = []
    stop = threading.Event()

    def ask(start: int) -> None:
        for i in itertools.count(start, 4):
            if stop.is_set():
                return
            futures = [model.submit(i + j, deadline=60.0) for j in range(4)]
            wrong.extend(i + j for j, f in enumerate(futures) if f.result().output != 2 * (i + j))
            asked.append(len(futures))

    threads = [threading.Thread(target=ask, args=(1_000_000 * t,)) for t in range(3)]
    for thread in threads:
        thread.start()
    for change in range(100):
        model.set_batching(STRATEGIES[change % 4])
        model.set_max_queue(10_000 + change)
        time.sleep(0.002)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(asked) > 100
    assert sum(replica["rows"] for replica in state(model)["replicas"]) == sum(asked)
    assert state(model)["outstanding_rows"] == 0


def test_the_queue_bound_of_the_moment_decides_who_is_refused(engine: clipper.Engine) -> None:
    started, gate = threading.Event(), threading.Event()

    def gated(batch: np.ndarray) -> np.ndarray:
        started.set()
        assert gate.wait(30)
        return batch.copy()

    model = engine.deploy(
        "m", gated, input=ROW, output=ROW, max_queue=2, default=-1, caller_runs=False
    )
    assert state(model)["max_queue"] == 2
    running = model.submit(0)
    assert started.wait(30)
    futures = [model.submit(i) for i in range(1, 6)]
    model.set_max_queue(100)
    assert state(model)["max_queue"] == 100
    futures += [model.submit(i) for i in range(6, 110)]
    gate.set()
    answered = [f.result().output for f in futures if not f.result().is_default]
    refused = [f.result().why for f in futures if f.result().is_default]
    assert answered == [1, 2, *range(6, 104)]
    assert set(refused) == {clipper.Cause.OVERLOAD}
    assert running.result().output == 0


def test_changes_that_cannot_be_are_refused(engine: clipper.Engine) -> None:
    wide = clipper.Tensor("float32", (256 * 1024,))  # 1 MiB a row
    model = engine.deploy(
        "m", lambda batch: batch[:, 0].copy(), input=wide, output=clipper.Tensor("float32", ()),
        batching=clipper.Fixed(4),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"memory for.*deploy it again"):
        model.set_batching(clipper.Fixed(60_000))
    with pytest.raises(ValueError, match="quantile"):
        model.set_batching("quantil")
    for bound in (0, -1, 1 << 25, 2.5):
        with pytest.raises(ValueError, match=r"max_queue is .*16777216"):
            model.set_max_queue(bound)  # type: ignore[arg-type]
    assert state(model)["batching"] == "Fixed(rows=4)"
    engine.undeploy("m")
    with pytest.raises(clipper.ClipperError, match="not deployed any more"):
        model.set_batching("aimd")
    with pytest.raises(clipper.ClipperError, match="not deployed any more"):
        model.set_max_queue(5)
