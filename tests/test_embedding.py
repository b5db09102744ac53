"""Manners inside somebody else's process: imports, logging, and models that ask models."""

import asyncio
import logging
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import clipper
from clipper.seldom import SeldomLog

Ask = Callable[[clipper.Model, int], Any]

WAYS: dict[str, Ask] = {
    "predict": lambda model, x: model.predict(x, deadline=10.0).output,
    "predict_many": lambda model, x: model.predict_many([x], deadline=10.0).output[0],
    "submit": lambda model, x: model.submit(x, deadline=10.0).result().output,
    "predict_async": lambda model, x: asyncio.run(_awaited(model, x)),
}


async def _awaited(model: clipper.Model, x: int) -> Any:
    return (await model.predict_async(x, deadline=10.0)).output


def run(script: str) -> str:
    """Run a script in a process that has set up nothing; its stderr must stay empty."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


# ---- imports -----------------------------------------------------------------------------------


def test_import_brings_nothing_that_it_does_not_need() -> None:
    assert (
        run("""
        import sys, clipper
        heavy = {"torch", "onnxruntime", "onnx", "sklearn", "matplotlib", "rich", "pytest",
                 "clipper_pytest", "clipper_adapters", "multiprocessing", "sqlite3"}
        print(sorted(heavy & set(sys.modules)), "numpy" in sys.modules)
    """)
        == "[] True\n"
    )


def test_import_starts_no_thread_and_leaves_signals_and_warnings_alone() -> None:
    assert (
        run("""
        import signal, threading, warnings
        before = [signal.getsignal(n) for n in signal.valid_signals()], list(warnings.filters)
        import numpy
        numpys = list(warnings.filters)
        import clipper
        print(threading.active_count(),
              [signal.getsignal(n) for n in signal.valid_signals()] == before[0],
              list(warnings.filters) == numpys)
    """)
        == "1 True True\n"
    )


# ---- logging -----------------------------------------------------------------------------------


def test_the_logger_is_left_to_the_application() -> None:
    assert (
        run("""
        import logging, clipper
        logger = logging.getLogger("clipper")
        others = [n for n in logging.root.manager.loggerDict if n.startswith("clipper.")]
        print([type(handler).__name__ for handler in logger.handlers], logger.level,
              logger.propagate, logger.disabled, logging.root.handlers, logging.root.level, others)
    """)
        == "['NullHandler'] 0 True False [] 30 []\n"
    )


def test_failures_write_nothing_to_a_process_that_set_up_no_logging() -> None:
    assert (
        run("""
        import numpy as np, clipper

        def fail(batch):
            raise RuntimeError("broken")

        def fail_too(future):
            raise RuntimeError("in a callback")

        with clipper.Engine() as engine:
            int64 = clipper.Tensor("int64")
            model = engine.deploy("m", fail, input=int64, output=int64, default=-1)
            futures = [model.submit(1) for _ in range(10)]
            for future in futures:
                future.add_done_callback(fail_too)
            print([future.result().output for future in futures], model.errors[0][-7:])
    """)
        == f"{[-1] * 10} broken\n\n"
    )


def test_a_thousand_queries_log_next_to_nothing_whatever_becomes_of_them(
    engine: clipper.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def some_fail(batch: np.ndarray) -> np.ndarray:
        if (batch % 3 == 0).any():
            raise ValueError("not that one")
        return batch

    def fail_too(future: clipper.PredictionFuture) -> None:
        called.append(future)
        raise RuntimeError("in a callback")

    called: list[clipper.PredictionFuture] = []
    caplog.set_level(logging.DEBUG)
    int64 = clipper.Tensor("int64")
    model = engine.deploy("m", some_fail, input=int64, output=int64, default=-1)
    began = time.monotonic()
    for row in range(500):
        assert model.predict(row).output == (-1 if row % 3 == 0 else row)
    futures = [model.submit(row) for row in range(250)]
    late = [model.submit(row, deadline=1e-6) for row in range(250)]
    for future in futures + late:
        future.add_done_callback(fail_too)
    for future in futures + late:
        future.result()
    while len(called) < 500:
        time.sleep(0.001)
        assert time.monotonic() < began + 60
    records = [record for record in caplog.records if record.name != "asyncio"]
    assert {record.name for record in records} == {"clipper"}
    assert 1 <= len(records) <= 2 + time.monotonic() - began
    assert "in a callback" in caplog.text
    assert model.statistics()["causes"]["model_error"] > 150


def test_what_is_kept_back_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    log = SeldomLog(logging.getLogger("clipper"), period=1.0, clock=lambda: now[0])
    for now[0] in (0.0, 0.2, 0.9, 1.0, 1.1, 5.0):
        try:
            raise ValueError(f"at {now[0]}")
        except ValueError:
            log.exception("%s raised", "it")
    assert [record.getMessage() for record in caplog.records] == [
        "it raised",
        "it raised (2 more like this since the last)",
        "it raised (1 more like this since the last)",
    ]
    assert "at 5.0" in caplog.text


# ---- models that ask models --------------------------------------------------------------------


@pytest.mark.parametrize("outer_way", WAYS)
@pytest.mark.parametrize("inner_way", ["predict", "predict_many", "submit"])
def test_a_model_may_ask_another_in_every_way(
    engine: clipper.Engine, outer_way: str, inner_way: str
) -> None:
    inner = engine.deploy("inner", lambda batch: batch + 1, warmup=np.int64(0))
    ask = WAYS[inner_way]
    outer = engine.deploy(
        "outer", lambda batch: np.array([10 * ask(inner, int(row)) for row in batch]),
        warmup=np.int64(0),
    )  # fmt: skip
    assert [WAYS[outer_way](outer, x) for x in range(4)] == [10, 20, 30, 40]


def test_a_model_on_its_own_thread_may_await_another(engine: clipper.Engine) -> None:
    inner = engine.deploy("inner", lambda batch: batch + 1, warmup=np.int64(0))
    outer = engine.deploy(
        "outer", lambda batch: np.array([WAYS["predict_async"](inner, int(row)) for row in batch]),
        warmup=np.int64(0), caller_runs=False,
    )  # fmt: skip
    assert [outer.predict(x).output for x in range(4)] == [1, 2, 3, 4]


@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_asks_itself_is_told_so_at_once(engine: clipper.Engine, way: str) -> None:
    told: list[BaseException] = []

    def selfish(batch: np.ndarray) -> np.ndarray:
        if (batch == 7).any():
            try:
                WAYS[way](model, 1)
            except clipper.RecursionRefusedError as error:
                told.append(error)
        return batch

    model = engine.deploy("selfish", selfish, warmup=np.int64(0), caller_runs=False)
    began = time.monotonic()
    assert model.predict(7).output == 7
    assert time.monotonic() - began < 5
    assert [type(error) for error in told] == [clipper.RecursionRefusedError]
    assert "'selfish' asked itself" in str(told[0])


def test_another_thread_may_ask_a_model_that_runs(engine: clipper.Engine) -> None:
    answers: list[Any] = []

    def spawning(batch: np.ndarray) -> np.ndarray:
        if (batch == 7).any():
            thread = threading.Thread(target=lambda: answers.append(model.predict(1).output))
            threads.append(thread)
            thread.start()
        return batch

    threads: list[threading.Thread] = []
    model = engine.deploy("spawning", spawning, warmup=np.int64(0))
    assert model.predict(7).output == 7
    threads[0].join(10)
    assert answers == [1]


def test_a_model_led_by_a_loop_may_leave_a_question_to_itself_behind(
    engine: clipper.Engine,
) -> None:
    left: list[asyncio.Future[clipper.Prediction]] = []

    def leaving(batch: np.ndarray) -> np.ndarray:
        if (batch == 7).any() and not left:
            try:
                asyncio.get_running_loop()
            except RuntimeError:  # on the replica's thread, this time
                return batch
            left.append(asyncio.ensure_future(model.predict_async(1)))
        return batch

    model = engine.deploy("leaving", leaving, warmup=np.int64(0))

    async def ask() -> int:
        until = time.monotonic() + 30
        while not left:
            assert (await model.predict_async(7)).output == 7
            assert time.monotonic() < until, "no loop has led it"
        return int((await left[0]).output)

    assert asyncio.run(ask()) == 1
