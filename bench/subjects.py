"""The models that are served end to end, each beside its bare self, and the ways of asking them."""

import asyncio
import collections
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import clipper
from interleaved import Crew, Way, interleave

OUTSTANDING = 64  # rows that wait at any time
MANY = 16  # rows of one predict_many
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Subject:
    """A deployed model, rows to ask it for, and the same model without an engine."""

    model: clipper.Model
    rows: NDArray[np.float32]  # OUTSTANDING of them
    bare: Callable[[Any], object]
    to_bare: Callable[[NDArray[np.float32]], Any] = np.ascontiguousarray  # done beforehand


def total(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Do next to nothing."""
    sums: NDArray[np.float32] = batch.sum(axis=1)
    return sums


def no_op(engine: clipper.Engine, **options: Any) -> Subject:
    """The sum of 16 numbers."""
    rows = np.random.default_rng(0).random((OUTSTANDING, 16), dtype=np.float32)
    model = engine.deploy("no-op", total, warmup=rows[0], slo=1.0, **options)
    return Subject(model, rows, total)


def mlp(engine: clipper.Engine, name: str = "mlp", **options: Any) -> Subject:
    """A perceptron of PyTorch, 784-512-512-10, on one thread."""
    import torch

    from clipper_adapters import TorchModel, zoo

    torch.set_num_threads(1)
    module = zoo.mlp_784()
    rows = np.random.default_rng(0).random((OUTSTANDING, 784), dtype=np.float32)
    model = engine.deploy(name, TorchModel(module, threads=1), slo=1.0, **options)

    def bare(batch: torch.Tensor) -> object:
        with torch.inference_mode():
            return module(batch)

    return Subject(model, rows, bare, lambda rows: torch.from_numpy(rows.copy()))


def resnet20(engine: clipper.Engine) -> Subject:
    """A residual network of twenty layers in ONNX Runtime, on one thread."""
    import onnxruntime

    from clipper_adapters import OnnxModel, zoo

    with tempfile.TemporaryDirectory() as folder:
        path = zoo.export_onnx(zoo.resnet20(), (3, 32, 32), Path(folder) / "resnet20.onnx")
        model = engine.deploy("resnet20", OnnxModel(path, threads=1), slo=5.0)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(0).random((OUTSTANDING, 3, 32, 32), dtype=np.float32)
    return Subject(model, rows, lambda batch: session.run(None, {"input": batch}))


SUBJECTS: dict[str, Callable[[clipper.Engine], Subject]] = {
    "no-op": no_op,
    "MLP": mlp,
    "ResNet-20": resnet20,
}


# ---- ways of asking; each returns how many rows it asked for ------------------------------------


def direct(subject: Subject, size: int, times: int = 1) -> Way:
    """Call the bare model in a plain loop, ``size`` rows at a time."""
    starts = range(0, OUTSTANDING, size)
    batches = [subject.to_bare(subject.rows[start : start + size]) for start in starts] * times
    bare = subject.bare

    def run() -> int:
        for batch in batches:
            bare(batch)
        return OUTSTANDING * times

    return run


def best_batch(subject: Subject, rounds: int) -> int:
    """Return the batch size at which the bare model does the most rows in a second."""
    seconds = interleave({str(size): direct(subject, size) for size in BATCH_SIZES}, rounds)
    return min(BATCH_SIZES, key=lambda size: float(np.median(seconds[str(size)])))


def predict(subject: Subject, times: int = 1) -> Way:
    """One row after the other."""
    rows, ask = list(subject.rows), subject.model.predict

    def run() -> int:
        for _ in range(times):
            for row in rows:
                ask(row)
        return len(rows) * times

    return run


def submit(subject: Subject, times: int = 1) -> Way:
    """All rows first, then all results."""
    rows, ask = list(subject.rows), subject.model.submit

    def run() -> int:
        for _ in range(times):
            for future in [ask(row) for row in rows]:
                future.result()
        return len(rows) * times

    return run


def predict_many_alone(subject: Subject, times: int = 1) -> Way:
    """One caller that asks for 16 rows at a time."""
    parts = [subject.rows[i : i + MANY] for i in range(0, OUTSTANDING, MANY)]
    ask = subject.model.predict_many

    def run() -> int:
        for _ in range(times):
            for part in parts:
                ask(part)
        return OUTSTANDING * times

    return run


@contextmanager
def predict_many(subject: Subject, times: int = 1) -> Iterator[Way]:
    """Callers that each ask for 16 rows at a time; together they keep 64 waiting."""
    parts = [subject.rows[i : i + MANY] for i in range(0, OUTSTANDING, MANY)]
    ask = subject.model.predict_many

    def call(number: int) -> None:
        for _ in range(times):
            ask(parts[number])

    with Crew(len(parts)) as crew:

        def run() -> int:
            crew.run(call)
            return OUTSTANDING * times

        yield run


@contextmanager
def predict_async(subject: Subject, times: int = 1) -> Iterator[Way]:
    """All rows gathered in one event loop."""
    rows, ask = list(subject.rows), subject.model.predict_async

    async def gather() -> None:
        for _ in range(times):
            await asyncio.gather(*[ask(row) for row in rows])

    loop = asyncio.new_event_loop()

    def run() -> int:
        loop.run_until_complete(gather())
        return len(rows) * times

    try:
        yield run
    finally:
        loop.close()


def steady(subject: Subject, times: int = 1) -> Way:
    """Keep all rows outstanding: each is asked again as soon as its answer is there."""
    rows, ask = list(subject.rows), subject.model.submit

    def run() -> int:
        waiting = collections.deque(ask(row) for row in rows)
        for _ in range(times - 1):
            for row in rows:
                waiting.popleft().result()
                waiting.append(ask(row))
        for future in waiting:
            future.result()
        return len(rows) * times

    return run


@contextmanager
def every_row_counted(model: clipper.Model) -> Iterator[Callable[[int], None]]:
    """Check at the end that the model ran and answered as many rows as were asked for, no more.

    Yields what is to be told of each row asked for.
    """
    asked = 0

    def note(rows: int) -> None:
        nonlocal asked
        asked += rows

    run_before, answered_before = rows_run(model), model.statistics()["answered"]
    yield note
    run, answered = rows_run(model) - run_before, model.statistics()["answered"] - answered_before
    assert run == answered == asked > 0, f"{asked} rows asked, {run} run, {answered} answered"


def rows_run(model: clipper.Model) -> int:
    """Return how many rows the model's replicas have run."""
    versions = model.describe()["versions"].values()
    return sum(replica["rows"] for version in versions for replica in version["replicas"])


def noted(way: Way, note: Callable[[int], None]) -> Way:
    """Return the way, telling `note` of its rows."""

    def run() -> int:
        rows = way()
        note(rows)
        return rows

    return run
