"""What an answer that is known costs, and what looking for one in vain adds to a query."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import clipper

SIZES = {"64 bytes": 16, "3 kB": 784}  # float32 values of a row
MANY = 4096  # different rows, so many that none is still known when it comes again


def _deployed(engine: clipper.Engine, name: str, width: int, cache: Any) -> clipper.Model:
    row_type = clipper.Tensor("float32", (width,))

    def first_values(batch: np.ndarray) -> np.ndarray:
        return batch[:, 0]

    return engine.deploy(
        name, first_values, input=row_type, output=clipper.Tensor("float32"), cache=cache,
        warmup=np.zeros(width, np.float32),
    )  # fmt: skip


def _rows(width: int, count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(1).random((count, width), np.float32))


@pytest.mark.benchmark(group="cache hit, 64 bytes")
def bench_hit_dict(benchmark: Callable[[Callable[[], object]], object]) -> None:
    (row,) = _rows(16, 1)
    known = {row.tobytes(): 1.0}
    benchmark(lambda: known[row.tobytes()])


@pytest.mark.parametrize("size", SIZES)
def bench_hit_predict(
    benchmark: Callable[[Callable[[], object]], object], engine: clipper.Engine, size: str
) -> None:
    benchmark.group = f"cache hit, {size}"  # type: ignore[attr-defined]
    (row,) = _rows(SIZES[size], 1)
    model = _deployed(engine, "m", SIZES[size], True)
    model.predict(row)
    benchmark(lambda: model.predict(row))
    assert model.describe()["cache"]["misses"] == 1


@pytest.mark.parametrize("cache", [None, clipper.Cache(bytes="128KiB")], ids=["without", "missed"])
@pytest.mark.parametrize("size", SIZES)
def bench_miss(
    benchmark: Callable[[Callable[[], object]], object], engine: clipper.Engine, size: str,
    cache: clipper.Cache | None,
) -> None:  # fmt: skip
    benchmark.group = f"cache miss, {size}"  # type: ignore[attr-defined]
    model = _deployed(engine, "m", SIZES[size], cache or False)
    rows = itertools.cycle(_rows(SIZES[size], MANY))
    for row in itertools.islice(rows, MANY):
        model.predict(row)
    benchmark(lambda: model.predict(next(rows)))
    if cache is not None:
        assert model.describe()["cache"]["hits"] == 0
