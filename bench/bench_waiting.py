"""One call handed to another thread and back: the engine's hand-over against naive ones."""

import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import clipper
import subjects

PING_PONG = {"group": "ping-pong with another thread"}


@pytest.mark.benchmark(**PING_PONG)
def bench_ping_pong_simple_queue(benchmark: Callable[..., Any]) -> None:
    there: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    back: queue.SimpleQueue[int] = queue.SimpleQueue()

    def answer() -> None:
        while (number := there.get()) is not None:
            back.put(number + 1)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()

    def run() -> int:
        there.put(1)
        return back.get()

    assert benchmark(run) == 2
    there.put(None)
    thread.join()


@pytest.mark.benchmark(**PING_PONG)
def bench_ping_pong_condition(benchmark: Callable[..., Any]) -> None:
    turn = threading.Condition()
    state = {"asked": 0, "answered": 0, "over": False}

    def answer() -> None:
        with turn:
            while True:
                turn.wait_for(lambda: state["asked"] > state["answered"] or state["over"])
                if state["over"]:
                    return
                state["answered"] = state["asked"]
                turn.notify()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()

    def run() -> bool:
        with turn:
            state["asked"] += 1
            turn.notify()
            return turn.wait_for(lambda: state["answered"] == state["asked"])

    assert benchmark(run)
    with turn:
        state["over"] = True
        turn.notify()
    thread.join()


@pytest.mark.benchmark(**PING_PONG)
@pytest.mark.parametrize("caller_runs", [False, True], ids=["replica's thread", "caller leads"])
def bench_ping_pong_predict(
    benchmark: Callable[..., Any], engine: clipper.Engine, caller_runs: bool
) -> None:
    subject = subjects.no_op(engine, caller_runs=caller_runs)
    row = np.ones(16, np.float32)
    assert benchmark(lambda: subject.model.predict(row)).output == 16.0
