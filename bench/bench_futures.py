"""What a future costs, against those of the standard library that do nothing but hold a value."""

import asyncio
import concurrent.futures
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import clipper
import subjects

ROUNDS = {"group": "future: make, set, result"}
LOOP = {"group": "64 awaitables gathered in one loop"}


@pytest.mark.benchmark(**ROUNDS)
def bench_future_standard_library(benchmark: Callable[..., Any]) -> None:
    def run() -> object:
        future: concurrent.futures.Future[int] = concurrent.futures.Future()
        future.set_result(7)
        return future.result()

    assert benchmark(run) == 7


@pytest.mark.benchmark(**ROUNDS)
def bench_future_thread_pool(benchmark: Callable[..., Any]) -> None:
    """What one would use without an engine: it also hands the call to another thread."""
    row = np.ones((1, 16), np.float32)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert benchmark(lambda: pool.submit(subjects.total, row).result()) == [16.0]


@pytest.mark.benchmark(**ROUNDS)
def bench_future_submit(benchmark: Callable[..., Any], engine: clipper.Engine) -> None:
    """Includes writing the row, running the no-op model and copying its output."""
    subject = subjects.no_op(engine)
    row = np.ones(16, np.float32)
    assert benchmark(lambda: subject.model.submit(row).result()).output == 16.0


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.mark.benchmark(**LOOP)
def bench_gather_plain_futures(
    benchmark: Callable[..., Any], loop: asyncio.AbstractEventLoop
) -> None:
    async def gather() -> int:
        futures = [loop.create_future() for _ in range(subjects.OUTSTANDING)]
        for future in futures:
            loop.call_soon(future.set_result, 7)
        return sum(await asyncio.gather(*futures))

    assert benchmark(lambda: loop.run_until_complete(gather())) == 7 * subjects.OUTSTANDING


@pytest.mark.benchmark(**LOOP)
def bench_gather_plain_coroutines(
    benchmark: Callable[..., Any], loop: asyncio.AbstractEventLoop
) -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 7

    async def gather() -> int:
        return sum(await asyncio.gather(*(answer() for _ in range(subjects.OUTSTANDING))))

    assert benchmark(lambda: loop.run_until_complete(gather())) == 7 * subjects.OUTSTANDING


@pytest.mark.benchmark(**LOOP)
def bench_gather_predict_async(benchmark: Callable[..., Any], engine: clipper.Engine) -> None:
    subject = subjects.no_op(engine)
    with (
        subjects.every_row_counted(subject.model) as note,
        subjects.predict_async(subject) as run,
    ):
        benchmark(subjects.noted(run, note))
