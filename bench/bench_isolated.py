"""Isolated replicas: the way to another process and back, and what it costs under load.

``pytest bench/bench_isolated.py`` for single figures; ``python bench/bench_isolated.py`` prints
ratios against the floor and the bare model, measured in turns. Wanted: a round trip within 15 µs of
two processes that only ring each other's doorbells, and 0.9 of the bare model's rate with 64 rows
outstanding, each side on a core of its own.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import Pipe
from typing import Any

import numpy as np
import pytest

import clipper
import subjects
from clipper import Isolated
from interleaved import HEADING, Figure, Way, interleave, machine, ratios

_ONE = (1).to_bytes(8, sys.byteorder)
_ECHO = """
import os, sys
there, back = map(int, sys.argv[1:])
while os.read(there, 8):
    os.write(back, (1).to_bytes(8, sys.byteorder))
"""
_SUM_ROWS = """
import sys
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
while (batch := connection.recv()) is not None:
    connection.send(batch.sum(axis=1))
"""
ROUND_TRIP = {"group": "to another process and back"}


@contextmanager
def doorbells() -> Iterator[Callable[[], bytes]]:
    """Start a process that answers each ring with a ring: the floor of any isolation."""
    there, back = os.eventfd(0), os.eventfd(0)
    arguments = [sys.executable, "-c", _ECHO, str(there), str(back)]
    with subprocess.Popen(arguments, pass_fds=(there, back)) as process:

        def ring() -> bytes:
            os.write(there, _ONE)
            return os.read(back, 8)

        ring()  # it has started
        yield ring
        process.kill()
    os.close(there)
    os.close(back)


@pytest.mark.benchmark(**ROUND_TRIP)
def bench_round_trip_doorbells(benchmark: Callable[..., Any]) -> None:
    with doorbells() as ring:
        assert benchmark(ring) == _ONE


@pytest.mark.benchmark(**ROUND_TRIP)
def bench_round_trip_pipe(benchmark: Callable[..., Any]) -> None:
    """What multiprocessing does: pickles through a pipe."""
    ours, theirs = Pipe()
    arguments = [sys.executable, "-c", _SUM_ROWS, str(theirs.fileno())]
    with subprocess.Popen(arguments, pass_fds=(theirs.fileno(),)) as process:
        theirs.close()  # so that a process that has died is an error, not silence
        row = np.ones((1, 16), np.float32)

        def ask() -> Any:
            ours.send(row)
            return ours.recv()

        assert benchmark(ask)[0] == 16.0
        ours.send(None)
        process.wait(timeout=10)


@pytest.mark.benchmark(**ROUND_TRIP)
@pytest.mark.parametrize("where", ["thread", "isolated"])
def bench_round_trip_predict(
    benchmark: Callable[..., Any], engine: clipper.Engine, where: str
) -> None:
    subject = subjects.no_op(engine, where=where)
    row = np.ones(16, np.float32)
    assert benchmark(lambda: subject.model.predict(row)).output == 16.0


@pytest.mark.benchmark(group="64 rows outstanding on a perceptron, a round of 256")
@pytest.mark.parametrize("in_flight", [1, 2])
def bench_steady_mlp(benchmark: Callable[..., Any], engine: clipper.Engine, in_flight: int) -> None:
    pytest.importorskip("torch")
    subject = subjects.mlp(engine, where=Isolated(in_flight=in_flight))
    assert benchmark(subjects.steady(subject, 4)) == 4 * subjects.OUTSTANDING


# ---- ratios -----------------------------------------------------------------------------------


def round_trip(quick: bool) -> Iterator[Figure]:
    """The time of a predict of a model that does nothing, less that of two rings."""
    calls, rounds = (20, 2) if quick else (500, 60)
    with clipper.Engine() as engine, doorbells() as ring:
        subject = subjects.no_op(engine, where="isolated")
        row, predict = subject.rows[0], subject.model.predict
        floors, differences = [], []
        for _ in range(rounds):
            floor = statistics.median(_times(ring, calls))
            ours = statistics.median(_times(lambda: predict(row), calls))
            floors.append(floor * 1e6)
            differences.append((ours - floor) * 1e6)
    yield Figure("two doorbells, p50", floors, None, False, "µs")
    yield Figure("isolated no-op predict, p50 above that", differences, 15.0, False, "µs")


def perceptron(quick: bool) -> Iterator[Figure]:
    """Rows per second through one worker, over those of the bare model on the worker's core."""
    times, rounds = (2, 1) if quick else (40, 25)
    cores = sorted(os.sched_getaffinity(0))
    with clipper.Engine() as engine, ExitStack() as stack:
        os.sched_setaffinity(0, cores[:1])
        stack.callback(os.sched_setaffinity, 0, cores)
        served = {
            f"{in_flight} in flight": subjects.mlp(
                engine, f"mlp{in_flight}", where=Isolated(in_flight=in_flight)
            )
            for in_flight in (1, 2)
        }
        for subject in served.values():
            (worker,) = subject.model.describe()["versions"]["1"]["workers"]
            for task in os.listdir(f"/proc/{worker['pid']}/task"):
                os.sched_setaffinity(int(task), cores[1:2] or cores)
        first = next(iter(served.values()))
        size = subjects.best_batch(first, 1 if quick else 15)
        worker_core = cores[1:2] or cores
        bare = {
            "bare": _on_core(worker_core, subjects.direct(first, size, times)),
            "half": _on_core(worker_core, subjects.direct(first, max(size // 2, 1), times)),
        }
        ways = {name: subjects.steady(subject, times) for name, subject in served.items()}
        seconds = interleave({**bare, **ways}, rounds)
    for name in ways:
        share = ratios(seconds["bare"], seconds[name])
        wanted = 0.9 if name.startswith("2") else None
        yield Figure(f"MLP, {name}, of bare batches of {size}", share, wanted, True)
    # Two in flight share the rows: each batch is of half of them.
    yield Figure(f"MLP, 2 in flight, of bare batches of {size // 2}",
                 ratios(seconds["half"], seconds["2 in flight"]), None, True)  # fmt: skip
    yield Figure("MLP, 2 in flight over 1", ratios(seconds["1 in flight"], seconds["2 in flight"]),
                 None, True)  # fmt: skip


def _on_core(cores: list[int], way: Way) -> Way:
    def run() -> int:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)
        try:
            return way()
        finally:
            os.sched_setaffinity(0, before)

    return run


def _times(call: Callable[[], object], calls: int) -> list[float]:
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times


def main(arguments: list[str]) -> int:
    """Measure, and print the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only see that all of it works")
    asked = parser.parse_args(arguments)
    print(machine(), HEADING, sep="\n", flush=True)
    is_met = True
    for measure in (round_trip, perceptron):
        for figure in measure(asked.quick):
            print(figure.line(), flush=True)
            is_met = is_met and figure.is_met
    return 0 if is_met or asked.quick else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
