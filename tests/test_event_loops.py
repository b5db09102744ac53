"""Predictions awaited in event loops, in every way that asyncio has of awaiting."""

import asyncio
import contextvars
import threading
import time
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

import clipper


@pytest.fixture
def doubler(engine: clipper.Engine) -> clipper.Model:
    return engine.deploy("doubler", lambda batch: batch * 2, warmup=1)


def test_every_way_of_awaiting_gives_the_answer(doubler: clipper.Model) -> None:
    async def ask() -> list[int]:
        async with asyncio.TaskGroup() as group:
            grouped = group.create_task(doubler.predict_async(1))
        task = asyncio.create_task(doubler.predict_async(2))
        waited = await asyncio.wait_for(doubler.predict_async(3), 5)
        shielded = await asyncio.shield(doubler.predict_async(4))
        gathered = await asyncio.gather(doubler.predict_async(5), doubler.predict_async(6))
        plain = await doubler.predict_async(7)
        answers = [grouped.result(), await task, waited, shielded, *gathered, plain]
        return [int(answer.output) for answer in answers]

    assert asyncio.run(ask()) == [2, 4, 6, 8, 10, 12, 14]


def test_what_is_asked_outside_a_loop_is_asked_when_it_is_awaited(doubler: clipper.Model) -> None:
    assert asyncio.run(doubler.predict_async(21)).output == 42

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    later = asyncio.run_coroutine_threadsafe(doubler.predict_async(4), loop)
    assert later.result(5).output == 8
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def _cancelled_by_task(coroutine: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, None]:
    async def run() -> None:
        task = asyncio.create_task(coroutine)
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    return run()


def _cancelled_by_timeout(coroutine: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, None]:
    async def run() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await coroutine

    return run()


def _cancelled_in_gather(coroutine: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, None]:
    async def run() -> None:
        both = asyncio.gather(coroutine, asyncio.sleep(10))
        await asyncio.sleep(0.02)
        both.cancel()
        with pytest.raises(asyncio.CancelledError):
            await both

    return run()


def _cancelled_beside_others(coroutine: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, None]:
    async def run() -> None:
        future = asyncio.ensure_future(coroutine)
        both = asyncio.gather(future, asyncio.sleep(0.02, "slept"), return_exceptions=True)
        await asyncio.sleep(0.01)
        future.cancel("no longer")
        cancelled, other = await both
        assert isinstance(cancelled, asyncio.CancelledError)
        assert (cancelled.args, other) == (("no longer",), "slept")

    return run()


@pytest.mark.parametrize(
    "cancel",
    [_cancelled_beside_others, _cancelled_by_task, _cancelled_by_timeout, _cancelled_in_gather],
)
def test_cancelling_withdraws_the_row(engine: clipper.Engine, cancel: Any) -> None:
    seen: list[int] = []
    release = threading.Event()

    def slow(batch: np.ndarray) -> np.ndarray:
        seen.extend(batch.tolist())
        release.wait(10)
        return batch

    model = engine.deploy(
        "slow", slow, input=clipper.Tensor("int64"), output=clipper.Tensor("int64"),
        caller_runs=False,
    )  # fmt: skip

    async def ask() -> None:
        first = asyncio.create_task(model.predict_async(1))
        while seen != [1]:
            await asyncio.sleep(0.001)
        await cancel(model.predict_async(2))  # waits behind the first, which is running
        release.set()
        assert (await first).output == 1

    asyncio.run(ask())
    model.predict(3)
    assert seen == [1, 3]
    assert model.statistics()["causes"] == {"cancelled": 1}


def test_context_variables_survive(doubler: clipper.Model) -> None:
    who = contextvars.ContextVar[str]("who")

    async def ask(name: str) -> tuple[str, int]:
        who.set(name)
        answer = await doubler.predict_async(len(name))
        return who.get(), int(answer.output)

    async def ask_all() -> list[tuple[str, int]]:
        return await asyncio.gather(*(ask("x" * n) for n in range(1, 20)))

    assert asyncio.run(ask_all()) == [("x" * n, 2 * n) for n in range(1, 20)]


def test_a_callback_that_raises_is_reported_and_disturbs_nobody(doubler: clipper.Model) -> None:
    async def ask() -> list[str]:
        reported: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(str(context["exception"])))

        def fail(_: object) -> None:
            raise RuntimeError("in a callback")

        first = asyncio.ensure_future(doubler.predict_async(1))
        first.add_done_callback(fail)
        answers = await asyncio.gather(first, doubler.predict_async(2))
        assert [answer.output for answer in answers] == [2, 4]
        return reported

    assert asyncio.run(ask()) == ["in a callback"]


def test_several_loops_ask_at_once(doubler: clipper.Model) -> None:
    answers: dict[int, list[int]] = {}

    def run(number: int) -> None:
        async def ask() -> list[int]:
            found = []
            for i in range(50):
                rows = [number * 1000 + i * 10 + j for j in range(5)]
                got = await asyncio.gather(*(doubler.predict_async(row) for row in rows))
                assert [answer.output for answer in got] == [2 * row for row in rows]
                found += [int(answer.output) for answer in got]
            return found

        answers[number] = asyncio.run(ask())

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {len(found) for found in answers.values()} == {250}
    assert len(answers) == 4


def test_rows_that_nobody_leads_are_answered_although_leaders_used_to_come(
    doubler: clipper.Model,
) -> None:
    for _ in range(50):  # the replica's thread learns to leave bursts to those who wait for them
        for future in [doubler.submit(row, deadline=5) for row in range(20)]:
            future.result()
    done = threading.Event()
    future = doubler.submit(4, deadline=5)
    future.add_done_callback(lambda _: done.set())
    begin = time.monotonic()
    assert done.wait(5)
    assert time.monotonic() - begin < 4
    assert future.result().output == 8
