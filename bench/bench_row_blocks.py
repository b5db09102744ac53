"""How 64 rows of 784 numbers become one batch: written where it will be read, or stacked."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import clipper

ROWS, WIDTH = 64, 784
ASSEMBLY = {"group": "64 rows of 784 into one batch"}


def take_one(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Look at the batch without reading it all: what is measured is how it came about."""
    return batch[:, 0].copy()


def _rows() -> list[NDArray[np.float32]]:
    return list(np.random.default_rng(0).random((ROWS, WIDTH), dtype=np.float32))


def _deploy(engine: clipper.Engine) -> clipper.Model:
    return engine.deploy("take", take_one, warmup=_rows()[0], batching=clipper.Fixed(ROWS))


def _gathered_batches(model: clipper.Model) -> int:
    (version,) = model.describe()["versions"].values()
    return sum(replica["gathered_batches"] for replica in version["replicas"])


@pytest.mark.benchmark(**ASSEMBLY)
def bench_batch_np_stack(benchmark: Callable[..., Any]) -> None:
    rows = _rows()
    assert len(benchmark(lambda: take_one(np.stack(rows)))) == ROWS


@pytest.mark.benchmark(**ASSEMBLY)
def bench_batch_copy_of_an_array(benchmark: Callable[..., Any]) -> None:
    """The floor: the bytes have to get there."""
    rows = np.stack(_rows())
    target = np.empty_like(rows)

    def run() -> NDArray[np.float32]:
        np.copyto(target, rows)
        return take_one(target)

    assert len(benchmark(run)) == ROWS


@pytest.mark.benchmark(**ASSEMBLY)
def bench_batch_predict_many(benchmark: Callable[..., Any], engine: clipper.Engine) -> None:
    model, rows = _deploy(engine), np.stack(_rows())
    answers = benchmark(lambda: model.predict_many(rows))
    np.testing.assert_array_equal(answers.output, rows[:, 0])
    assert _gathered_batches(model) == 0


@pytest.mark.benchmark(**ASSEMBLY)
def bench_batch_predict_many_kept_views(
    benchmark: Callable[..., Any], engine: clipper.Engine
) -> None:
    """The model keeps its last batch, so that a block is always leased."""
    kept: list[NDArray[np.float32]] = []

    def keep(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        kept[:] = [batch]
        return take_one(batch)

    model = engine.deploy("keep", keep, warmup=_rows()[0], batching=clipper.Fixed(ROWS))
    rows = np.stack(_rows())
    answers = benchmark(lambda: model.predict_many(rows))
    np.testing.assert_array_equal(answers.output, rows[:, 0])
    np.testing.assert_array_equal(kept[0], rows)
    assert _gathered_batches(model) == 0


@pytest.mark.benchmark(**ASSEMBLY)
def bench_batch_submit(benchmark: Callable[..., Any], engine: clipper.Engine) -> None:
    """64 queries of their own, each with its future."""
    model, rows = _deploy(engine), _rows()

    def run() -> list[object]:
        return [future.result().output for future in [model.submit(row) for row in rows]]

    assert benchmark(run) == [row[0] for row in rows]


@pytest.mark.benchmark(**ASSEMBLY)
def bench_batch_list_behind_a_lock(benchmark: Callable[..., Any]) -> None:
    """The naive batcher: rows are appended under a lock, then stacked."""
    rows, lock = _rows(), threading.Lock()
    waiting: list[NDArray[np.float32]] = []

    def run() -> NDArray[np.float32]:
        for row in rows:
            with lock:
                waiting.append(row)
        with lock:
            batch, waiting[:] = np.stack(waiting), []
        return take_one(batch)

    assert len(benchmark(run)) == ROWS
