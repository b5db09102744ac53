"""Prints what serving costs, as ratios against the bare model: ``python bench/ratios.py``.

Every pair is measured in turns, many rounds, and each figure is the median over the rounds with its
quartiles. bench/README.md says how to read them. Ends with 1 if a figure is not as wanted.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np

import clipper
import subjects
from interleaved import HEADING, BusyThread, Crew, Figure, Way, interleave, machine, ratios

#: What share of the bare model's best rate each way of asking should reach.
WANTED = {
    "MLP": {"submit": 0.95, "predict_many": 0.97, "predict_async": 0.75},
    "ResNet-20": {"submit": 0.97, "predict_many": 0.97, "predict_async": 0.97},
}
CALLERS = "predict_many, 4 callers"


class Effort:
    """How much is measured: everything, or just enough to see that it works."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick

    def __call__(self, full: int, quick: int = 2) -> int:
        """Return how often to do something."""
        return quick if self.quick else full


def no_op_overhead(effort: Effort) -> Iterator[Figure]:
    """One row of a model that does nothing, against calling it."""
    with clipper.Engine() as engine:
        subject = subjects.no_op(engine)
        row, batch = subject.rows[0], subject.rows[:1]
        predict, total = subject.model.predict, subjects.total
        calls = effort(500, 20)
        differences = []
        with subjects.every_row_counted(subject.model) as note:
            for _ in range(effort(400)):
                bare = statistics.median(_timed(lambda: total(batch)[0], calls))
                ours = statistics.median(_timed(lambda: predict(row).output, calls))
                differences.append((ours - bare) / 1e3)
                note(calls)
    yield Figure("no-op predict, p50 above the call", differences, 2.0, False, "µs")


def beside_a_busy_thread(effort: Effort) -> Iterator[Figure]:
    """The tail of a call while another thread computes in Python."""
    with clipper.Engine() as engine, BusyThread():
        subject = subjects.no_op(engine)
        row, batch = subject.rows[0], subject.rows[:1]
        predict, total = subject.model.predict, subjects.total
        calls = effort(20_000, 50)
        differences = []
        with subjects.every_row_counted(subject.model) as note:
            for _ in range(effort(15)):
                bare = np.quantile(_timed(lambda: total(batch)[0], calls), 0.999)
                ours = np.quantile(_timed(lambda: predict(row).output, calls), 0.999)
                differences.append(float(ours - bare) / 1e3)
                note(calls)
    yield Figure("no-op predict beside a busy thread, p99.9", differences, 100.0, False, "µs")


def _timed(call: Callable[[], object], calls: int) -> list[int]:
    """Nanoseconds of each of many calls."""
    clock = time.perf_counter_ns
    times = []
    for _ in range(calls):
        began = clock()
        call()
        times.append(clock() - began)
    return times


def threads_on_one_model(effort: Effort) -> Iterator[Figure]:
    """Eight threads that call predict, against one that makes as many calls."""
    threads, calls = 8, effort(2_000, 20)
    with clipper.Engine() as engine, Crew(1) as alone, Crew(threads) as together:
        subject = subjects.no_op(engine)
        row, predict = subject.rows[0], subject.model.predict

        def many_calls(count: int) -> Callable[[int], None]:
            def work(_: int) -> None:
                for _ in range(count):
                    predict(row)

            return work

        def one() -> int:
            alone.run(many_calls(threads * calls))
            return threads * calls

        def eight() -> int:
            together.run(many_calls(calls))
            return threads * calls

        with subjects.every_row_counted(subject.model) as note:
            ways = {"one": subjects.noted(one, note), "eight": subjects.noted(eight, note)}
            seconds = interleave(ways, effort(40))
    yield Figure(
        "8 threads on one model, of one thread's rate",
        ratios(seconds["one"], seconds["eight"]), 0.9, True,
    )  # fmt: skip


def of_the_bare_rate(name: str, effort: Effort) -> Iterator[Figure]:
    """64 rows outstanding, asked for in each way, against the bare model's best rate."""
    times, rounds = (20, 100) if name == "MLP" else (4, 40)  # a round takes a second at most
    times = effort(times, 1)
    with clipper.Engine() as engine, ExitStack() as stack:
        subject = subjects.SUBJECTS[name](engine)
        size = subjects.best_batch(subject, effort(15, 1))
        note = stack.enter_context(subjects.every_row_counted(subject.model))
        ours: dict[str, Way] = {
            "submit": subjects.submit(subject, times),
            "predict_many": subjects.predict_many_alone(subject, times),
            CALLERS: stack.enter_context(subjects.predict_many(subject, times)),
            "predict_async": stack.enter_context(subjects.predict_async(subject, times)),
        }
        ways = {way: subjects.noted(run, note) for way, run in ours.items()}
        bare = {
            str(size): subjects.direct(subject, size, times),
            str(subjects.MANY): subjects.direct(subject, subjects.MANY, times),
        }
        seconds = interleave({**bare, **ways}, effort(rounds))
    for way in ways:
        # Who asks for 16 rows at a time, alone, can be compared with batches of 16 only.
        of = str(subjects.MANY if way == "predict_many" else size)
        share = ratios(seconds[of], seconds[way])
        wanted = WANTED[name].get(way)
        yield Figure(f"{name}: {way}, of bare batches of {of}", share, wanted, True)


def idle(effort: Effort) -> Iterator[Figure]:
    """CPU time of an engine whose models have nothing to do."""
    with clipper.Engine() as engine:
        models = [
            engine.deploy(f"m{i}", subjects.total, warmup=np.ones(16, np.float32))
            for i in range(20)
        ]
        for model in models:  # each thread has been awake once
            model.submit(np.ones(16, np.float32)).result()
        time.sleep(0.5)
        used = []
        for _ in range(effort(5)):
            cpu, wall = time.process_time(), time.monotonic()
            time.sleep(effort(20, 1) / 10)
            used.append((time.process_time() - cpu) / (time.monotonic() - wall) * 100)
    yield Figure("idle with 20 models, of one core", used, 1.0, False, "%")


MEASURES: dict[str, Callable[[Effort], Iterator[Figure]]] = {
    "idle": idle,
    "no-op": no_op_overhead,
    "threads": threads_on_one_model,
    "busy": beside_a_busy_thread,
    "mlp": lambda effort: of_the_bare_rate("MLP", effort),
    "resnet": lambda effort: of_the_bare_rate("ResNet-20", effort),
}


def main(arguments: list[str]) -> int:
    """Measure, and print the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only see that all of it works")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    asked = parser.parse_args(arguments)
    print(machine(), HEADING, sep="\n", flush=True)
    is_met = True
    for name in asked.only:
        for figure in MEASURES[name](Effort(quick=asked.quick)):
            print(figure.line(), flush=True)
            is_met = is_met and figure.is_met
    if asked.quick:
        print("quick: rows run = rows asked throughout; the figures mean nothing")
    return 0 if is_met or asked.quick else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
