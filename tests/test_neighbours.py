"""A good neighbour: many threads share a model, none is held up by others, nothing is left over.

The bounds on time here only tell progress from none: what is claimed of speed is measured by bench.
"""

import asyncio
import gc
import os
import threading
import time

import numpy as np
import pytest

import clipper

THREADS = 8
ENOUGH = 200
#: Longer than any stall of a loaded machine, far shorter than what a fault would take.
SLACK_SECONDS = 20.0


def triple(batch: np.ndarray) -> np.ndarray:
    return 3 * batch


class Caller(threading.Thread):
    """Asks over and over for rows that are its own, and remembers the longest wait."""

    def __init__(self, model: clipper.Model, number: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._model = model
        self._number = number
        self._ending = stop
        self.answered = 0
        self.longest_wait = 0.0
        self.wrong: list[str] = []

    def run(self) -> None:
        try:
            while not self._ending.is_set():
                self._ask(self.answered * THREADS + self._number)
        except Exception as error:
            self.wrong.append(repr(error))

    def _ask(self, row: int) -> None:
        began = time.monotonic()
        output = self._model.predict(row).output
        self.longest_wait = max(self.longest_wait, time.monotonic() - began)
        self.answered += 1
        if output != 3 * row:
            self.wrong.append(f"{row} was answered {output}")


@pytest.mark.parametrize("nap", [0.0, 0.0005])
def test_threads_that_share_a_model_all_make_progress_with_their_own_answers(
    engine: clipper.Engine, nap: float
) -> None:
    def model_function(batch: np.ndarray) -> np.ndarray:
        if nap:
            time.sleep(nap)  # lets go of the GIL, as a framework does
        return triple(batch)

    model = engine.deploy("triple", model_function, warmup=np.int64(0))
    stop = threading.Event()
    callers = [Caller(model, number, stop) for number in range(THREADS)]
    for caller in callers:
        caller.start()
    until = time.monotonic() + 2 * SLACK_SECONDS
    while time.monotonic() < until and min(caller.answered for caller in callers) < ENOUGH:
        time.sleep(0.01)
    # The others go on all the while: whoever is starved does not get there.
    stop.set()
    for caller in callers:
        caller.join(SLACK_SECONDS)
        assert not caller.is_alive()
        assert caller.wrong == []
        assert caller.longest_wait < SLACK_SECONDS
        assert caller.answered >= ENOUGH


# Longer than any caller leads; and short enough for that, but too long for this deadline.
@pytest.mark.parametrize(("nap", "deadline"), [(0.03, 0.01), (0.0005, 0.0004)])
def test_a_caller_does_not_lead_a_batch_that_its_deadline_cannot_bear(
    engine: clipper.Engine, nap: float, deadline: float
) -> None:
    gate = threading.Event()
    gate.set()
    ran = []

    def slow(batch: np.ndarray) -> np.ndarray:
        ran.append(threading.current_thread())
        time.sleep(nap)
        gate.wait(2 * SLACK_SECONDS)
        return triple(batch)

    model = engine.deploy("slow", slow, warmup=np.int64(0))
    ran.clear()
    gate.clear()  # whoever runs a batch now is held
    time.sleep(0.2)  # a model that was idle as long is probed, though its bound forbids it
    began = time.monotonic()
    with pytest.raises((clipper.DeadlineExceededError, clipper.OverloadedError)):
        model.predict(1, deadline=deadline)
    assert time.monotonic() - began < SLACK_SECONDS
    assert threading.current_thread() not in ran
    gate.set()
    assert model.predict(2, deadline=60.0).output == 6


def test_a_caller_is_not_held_by_the_rows_of_others_that_wait_before_it(
    engine: clipper.Engine,
) -> None:
    rows = 1500

    def slow_by_rows(batch: np.ndarray) -> np.ndarray:
        time.sleep(0.001 * len(batch))
        return triple(batch)

    model = engine.deploy("slow", slow_by_rows, warmup=np.int64(0), default=-1)

    async def ask_behind_many() -> float:
        # Rows of one turn wait for its end: nobody drives the model when the urgent one comes.
        others = [asyncio.ensure_future(model.predict_async(i, deadline=60.0)) for i in range(rows)]
        await asyncio.sleep(0)
        queued = model.describe()["versions"]["1"]["waiting_rows"]
        began = time.monotonic()
        # Late or refused on a slow machine; answered on any other.
        assert model.predict(7, deadline=0.2).output in {21, -1}
        held = time.monotonic() - began
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        assert queued == rows
        return held

    assert asyncio.run(ask_behind_many()) < 0.001 * rows


def test_several_engines_in_one_process_do_not_know_of_each_other() -> None:
    with clipper.Engine() as first, clipper.Engine() as second:
        inner = first.deploy("m", lambda b: b + 1, warmup=np.int64(0))
        outer = second.deploy(
            "m", lambda b: np.array([inner.predict(row).output * 10 for row in b]),
            warmup=np.int64(0),
        )  # fmt: skip
        assert inner.predict(4).output == 5
        assert outer.predict(4).output == 50
        assert first.describe()["models"]["m"]["rows"] != second.describe()["models"]["m"]["rows"]
        second.close()
        with pytest.raises(clipper.EngineClosedError):
            outer.predict(4)
        assert inner.predict(5).output == 6


def test_loops_in_several_threads_share_an_engine(engine: clipper.Engine) -> None:
    model = engine.deploy("triple", triple, warmup=np.int64(0))
    answers: dict[int, list[int]] = {}

    async def ask(number: int) -> list[int]:
        predictions = await asyncio.gather(
            *(model.predict_async(number * 100 + i) for i in range(100))
        )
        return [int(prediction.output) for prediction in predictions]

    def loop(number: int) -> None:
        answers[number] = asyncio.run(ask(number))

    threads = [threading.Thread(target=loop, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == {n: [3 * (n * 100 + i) for i in range(100)] for n in range(4)}


def _use_every_way() -> None:
    with clipper.Engine() as engine:
        _ask_every_way(engine)
        assert _replica_threads() == {"clipper-a-0", "clipper-b-0", "clipper-c-0"}
    assert _replica_threads() == set()


def _ask_every_way(engine: clipper.Engine) -> None:
    models = [engine.deploy(name, triple, warmup=np.int64(0)) for name in ("a", "b", "c")]
    engine.create_application("all", models=["a", "b", "c"], slo=1.0, policy=clipper.MajorityVote())
    for model in models:
        called = threading.Event()
        future = model.submit(2, deadline=30.0)
        future.add_done_callback(lambda _, called=called: called.set())
        assert future.result().output == 6
        assert called.wait(30)
        assert list(model.predict_many([1, 2, 3]).output) == [3, 6, 9]
    assert engine.application("all").predict(1, deadline=30.0).output == 3

    async def ask() -> None:
        predictions = await asyncio.gather(*(models[0].predict_async(i) for i in range(10)))
        assert [p.output for p in predictions] == [3 * i for i in range(10)]

    asyncio.run(ask())


def _replica_threads() -> set[str]:
    ours = {"clipper-a-0", "clipper-b-0", "clipper-c-0"}
    return ours & {thread.name for thread in threading.enumerate()}


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def test_threads_and_descriptors_are_back_after_close() -> None:
    _use_every_way()  # what is made once and stays, such as lazy imports
    gc.collect()
    descriptors, threads = _descriptors(), _threads()
    for _ in range(5):
        _use_every_way()
    gc.collect()
    until = time.monotonic() + SLACK_SECONDS  # a joined thread leaves /proc a moment later
    while _threads() > threads and time.monotonic() < until:
        time.sleep(0.01)
    assert _threads() <= threads
    assert _descriptors() <= descriptors


def test_an_undeployed_model_gives_its_memory_and_threads_back(engine: clipper.Engine) -> None:
    engine.deploy("stays", triple, warmup=np.int64(0)).predict(1)
    threads, mappings = _threads(), _row_mappings()
    for _ in range(3):
        model = engine.deploy("goes", triple, warmup=np.int64(0))
        assert model.predict(1).output == 3
        assert _row_mappings() > mappings
        engine.undeploy("goes")
    del model
    gc.collect()
    until = time.monotonic() + SLACK_SECONDS
    while _threads() > threads and time.monotonic() < until:
        time.sleep(0.01)
    assert _threads() <= threads
    assert _row_mappings() == mappings
    assert engine.model("stays").predict(2).output == 6


def _row_mappings() -> int:
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        return sum("memfd:clipper" in line for line in maps)
