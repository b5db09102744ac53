"""Embedded prediction against the bare model, on the same rows."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

import clipper

WIDTH = 16
OUTSTANDING = 64


def total(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    return batch.sum(axis=1)


@pytest.fixture
def engine() -> Iterator[clipper.Engine]:
    with clipper.Engine() as made:
        yield made


@pytest.mark.benchmark(group="no-op, one row")
def bench_no_op_direct(benchmark: Callable[..., object]) -> None:
    batch = np.ones((1, WIDTH), np.float32)
    benchmark(lambda: total(batch)[0])


@pytest.mark.benchmark(group="no-op, one row")
def bench_no_op_predict(benchmark: Callable[..., object], engine: clipper.Engine) -> None:
    model = engine.deploy("total", total, warmup=np.ones(WIDTH, np.float32), slo=0.02)
    row = np.ones(WIDTH, np.float32)
    before = model.statistics()["answered"]
    benchmark(lambda: model.predict(row).output)
    statistics = model.statistics()
    assert statistics["answered"] == statistics["rows"] > before


def _mlp_rows() -> NDArray[np.float32]:
    return np.random.default_rng(0).random((OUTSTANDING, 784), dtype=np.float32)


@pytest.mark.benchmark(group="MLP 784-512-512-10, 64 rows")
def bench_mlp_direct(benchmark: Callable[..., object]) -> None:
    torch = pytest.importorskip("torch")
    from clipper_adapters import zoo

    torch.set_num_threads(1)
    module, rows = zoo.mlp_784(), torch.from_numpy(_mlp_rows())

    def run() -> object:
        with torch.inference_mode():
            return module(rows)

    benchmark(run)


@pytest.mark.benchmark(group="MLP 784-512-512-10, 64 rows")
def bench_mlp_submit(benchmark: Callable[..., object], engine: clipper.Engine) -> None:
    pytest.importorskip("torch")
    from clipper_adapters import TorchModel, zoo

    model = engine.deploy(
        "mlp",
        TorchModel(zoo.mlp_784(), input=clipper.Tensor("float32", (784,)), threads=1),
        slo=1.0,
    )
    rows = list(_mlp_rows())

    def run() -> None:
        for future in [model.submit(row) for row in rows]:
            future.result()

    benchmark(run)
    statistics = model.statistics()
    assert statistics["answered"] == statistics["rows"]
    replicas = model.describe()["versions"]["1"]["replicas"]
    assert sum(replica["rows"] for replica in replicas) == statistics["rows"]
