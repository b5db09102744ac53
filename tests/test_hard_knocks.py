"""What must not end the engine, lose a query or read beyond its memory, whoever misbehaves."""

import asyncio
import contextvars
import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import clipper

NUMBER = {"input": clipper.Tensor("float32"), "output": clipper.Tensor("float64")}


def zeros(batch: Any) -> np.ndarray:
    return np.zeros(len(batch))


def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.005)
    return holds()


def test_a_future_in_a_garbage_cycle_with_its_model_is_collected() -> None:
    def leave_a_cycle() -> None:
        engine = clipper.Engine()
        model = engine.deploy("m", zeros, **NUMBER)
        future = model.submit(1.0)
        future.exception(5)
        unfinished = model.submit(1.0)
        engine.close()
        cycle: list[Any] = [model, future, unfinished]
        cycle.append(cycle)

    for _ in range(20):
        leave_a_cycle()
        gc.collect()


def test_a_ragged_that_was_changed_is_refused(engine: clipper.Engine) -> None:
    tokens = clipper.Tensor("int64", (None,))
    model = engine.deploy("m", zeros, input=tokens, output=clipper.Tensor("float64"))
    offsets = np.array([0, 5, 10])
    rows = clipper.Ragged(np.arange(10), offsets)
    offsets[2] = 10**7  # somebody else's array by now
    assert len(model.predict_many(rows)) == 2
    with pytest.raises(ValueError, match="read-only"):
        rows.offsets[1] = -(10**6)
    with pytest.raises(AttributeError):
        rows.values = None  # type: ignore[misc]
    rows.offsets.flags.writeable = True
    rows.offsets[1] = -(10**6)
    with pytest.raises(ValueError, match="changed"):
        model.predict_many(rows)

    def vandal(batch: np.ndarray) -> clipper.Ragged:
        made = clipper.Ragged(np.arange(4), np.arange(len(batch) + 1))
        made.offsets.flags.writeable = True
        made.offsets[-1] = 10**7
        return made

    wild = engine.deploy("wild", vandal, input=clipper.Tensor("int64"), output=tokens)
    with pytest.raises(clipper.ModelError, match="changed"):
        wild.predict(1)


def test_sizes_beyond_reason_are_refused(engine: clipper.Engine) -> None:
    with pytest.raises(ValueError, match="tebibyte"):
        clipper.Tensor("uint8", (None, 2**32, 2**32))
    byte = clipper.Tensor("uint8", (1,))
    model = engine.deploy("m", zeros, input=byte, output=clipper.Tensor("float64"))
    many = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (2**24, 1), (0, 0))
    with pytest.raises(ValueError, match="16777216 rows"):
        model.predict_many(many)


@pytest.mark.parametrize("switch", ["rollback", "deploy", "undeploy"])
def test_rows_of_a_turn_are_answered_although_the_version_changes(
    engine: clipper.Engine, switch: str
) -> None:
    engine.deploy("m", zeros, **NUMBER)
    model = engine.deploy("m", zeros, **NUMBER)

    async def ask() -> float:
        for _ in range(20):
            await model.predict_async(1.0)
        waiting = model.predict_async(1.0)
        if switch == "rollback":
            model.rollback()
        elif switch == "deploy":
            engine.deploy("m", zeros, **NUMBER)
        else:
            engine.undeploy("m", timeout=5)
        return float((await asyncio.wait_for(waiting, 5)).output)

    assert asyncio.run(ask()) == 0.0


def test_a_model_that_ends_threads_ends_no_replica(engine: clipper.Engine) -> None:
    answers: list[Callable[[Any], Any]] = [lambda _: sys.exit(3), zeros]

    def moody(batch: np.ndarray) -> Any:
        return answers.pop(0)(batch)

    model = engine.deploy("m", moody, caller_runs=False, **NUMBER)
    with pytest.raises(clipper.ModelError, match="SystemExit"):
        model.predict(1.0)
    assert model.predict(1.0, deadline=5).output == 0.0


def test_a_callback_that_ends_threads_ends_no_reaper(engine: clipper.Engine) -> None:
    model = engine.deploy("m", lambda b: (time.sleep(0.02), zeros(b))[1], **NUMBER)
    called: list[int] = []
    for number in range(3):
        future = model.submit(1.0)
        future.add_done_callback(lambda _: sys.exit(3))
        future = model.submit(1.0)
        future.add_done_callback(lambda _, number=number: called.append(number))
    assert eventually(lambda: sorted(called) == [0, 1, 2])


def test_callbacks_of_what_close_ended_are_called() -> None:
    engine = clipper.Engine()
    release = threading.Event()
    quick = engine.deploy("quick", lambda b: (time.sleep(0.02), zeros(b))[1], **NUMBER)
    stuck = engine.deploy("stuck", lambda b: (release.wait(5), zeros(b))[1], **NUMBER)
    called: list[str] = []
    in_callback = threading.Event()

    def dawdle(_: object) -> None:
        in_callback.set()
        time.sleep(0.3)

    quick.submit(1.0).add_done_callback(dawdle)
    assert in_callback.wait(5)
    ended = stuck.submit(1.0)
    ended.add_done_callback(lambda _: called.append("ended"))
    release_soon = threading.Timer(0.1, release.set)
    release_soon.start()
    engine.close()
    assert eventually(lambda: called == ["ended"])
    assert ended.done()


def test_a_task_that_ends_its_loop_takes_no_others_answers() -> None:
    with clipper.Engine() as engine:
        model = engine.deploy(
            "m", lambda b: (time.sleep(0.05), zeros(b))[1], caller_runs=False, **NUMBER
        )
        loop = asyncio.new_event_loop()
        done: list[int] = []

        async def end_the_loop() -> None:
            await model.predict_async(1.0)
            raise SystemExit(3)

        async def go_on(number: int) -> None:
            await model.predict_async(1.0)
            done.append(number)

        bad = loop.create_task(end_the_loop())
        good = [loop.create_task(go_on(number)) for number in range(3)]
        with pytest.raises(SystemExit):
            loop.run_forever()
        loop.run_until_complete(asyncio.wait_for(asyncio.gather(*good), 5))
        assert sorted(done) == [0, 1, 2]
        assert isinstance(bad.exception(), SystemExit)
        loop.run_until_complete(asyncio.wait_for(go_on(3), 5))
        loop.close()


def test_callers_and_loops_do_not_lead_what_is_not_known(engine: clipper.Engine) -> None:
    leaders: list[str] = []

    def note(batch: clipper.Ragged) -> np.ndarray:
        if len(batch[0]) > 4:
            leaders.append(threading.current_thread().name)
        return zeros(batch)

    model = engine.deploy(
        "m", note, input=clipper.Tensor("int64", (None,)), output=clipper.Tensor("float64"),
        length_buckets=(4,), warmup=np.arange(3),
    )  # fmt: skip
    model.predict(np.arange(100))
    asyncio.run(model.predict_async(np.arange(100)))
    assert leaders
    assert all(name.startswith("clipper-m") for name in leaders)


def test_engines_of_one_loop_give_their_descriptors_back() -> None:
    async def open_and_close() -> tuple[int, int]:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with clipper.Engine() as engine:
                model = engine.deploy("m", zeros, **NUMBER)
                await model.predict_async(1.0)
        await asyncio.sleep(0.01)
        del engine, model
        gc.collect()
        return before, len(os.listdir("/proc/self/fd"))

    before, after = asyncio.run(open_and_close())
    assert after <= before + 1


def test_an_engine_that_is_dropped_ends_its_threads() -> None:
    before = {thread.ident for thread in threading.enumerate()}
    for _ in range(3):
        clipper.Engine().deploy("m", zeros, **NUMBER)
    gc.collect()
    assert eventually(lambda: {thread.ident for thread in threading.enumerate()} <= before)
    kept = clipper.Engine().deploy("m", zeros, **NUMBER)
    app = kept._engine.create_application("app", models=["m"], slo=None)
    del kept
    gc.collect()
    assert app.predict(1.0).output == 0.0  # who holds an application holds its engine
    app._engine.close()


def test_defaults_never_wrap_round(engine: clipper.Engine) -> None:
    small = {"input": clipper.Tensor("float32"), "output": clipper.Tensor("int8")}
    model = engine.deploy("m", lambda _: 1 / 0, slo=5, default=300, **small)
    assert model.predict(1.0).output == 300
    assert model.predict_many(np.ones(2, np.float32)).output.tolist() == [0, 0]  # no row of int8


def test_an_awaited_answer_counts_when_the_loop_holds_it(engine: clipper.Engine) -> None:
    model = engine.deploy("m", zeros, caller_runs=False, slo=0.1, default=-1.0, **NUMBER)

    async def hold_up_the_loop() -> clipper.Prediction:
        waiting = asyncio.ensure_future(model.predict_async(1.0))
        await asyncio.sleep(0)
        time.sleep(0.3)
        return await waiting

    assert asyncio.run(hold_up_the_loop()).latency >= 0.25
    assert model.statistics()["in_time"] == 0


def test_any_timeout_will_do(engine: clipper.Engine) -> None:
    model = engine.deploy("m", lambda b: (time.sleep(0.02), zeros(b))[1], **NUMBER)
    for timeout in (threading.TIMEOUT_MAX, 1e300, float("inf"), None):
        assert model.submit(1.0).result(timeout=timeout).output == 0.0


def test_callbacks_run_in_the_context_where_they_were_added(engine: clipper.Engine) -> None:
    model = engine.deploy("m", zeros, **NUMBER)
    who = contextvars.ContextVar("who", default="nobody")
    seen: dict[str, str] = {}

    async def ask(name: str) -> None:
        who.set(name)
        future = asyncio.ensure_future(model.predict_async(1.0))
        future.add_done_callback(lambda _: seen.update({name: who.get()}))
        await future

    async def ask_all() -> None:
        await asyncio.gather(*(ask(name) for name in "abc"))

    asyncio.run(ask_all())
    assert seen == {"a": "a", "b": "b", "c": "c"}


def test_text_that_is_none_is_refused_on_both_ends(engine: clipper.Engine) -> None:
    text = clipper.Tensor("text")
    model = engine.deploy("m", lambda batch: ["\ud800"] * len(batch), input=text, output=text)
    with pytest.raises(ValueError, match="surrogates"):
        model.predict("\ud800")
    with pytest.raises(clipper.ModelError, match="surrogates"):
        model.predict("good")
