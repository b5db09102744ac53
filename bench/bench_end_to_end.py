"""Every way of asking against the bare model, on the same 64 rows."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

import clipper
import subjects
from interleaved import Way

GROUPS = {name: f"{name}, 64 rows" for name in subjects.SUBJECTS}


@contextmanager
def _plain(way: Way) -> Iterator[Way]:
    yield way


WAYS: dict[str, Callable[[subjects.Subject], AbstractContextManager[Way]]] = {
    "predict": lambda subject: _plain(subjects.predict(subject)),
    "predict_many": subjects.predict_many,
    "submit": lambda subject: _plain(subjects.submit(subject)),
    "predict_async": subjects.predict_async,
}


def _subject(name: str, engine: clipper.Engine) -> subjects.Subject:
    pytest.importorskip({"MLP": "torch", "ResNet-20": "onnxruntime"}.get(name, "numpy"))
    return subjects.SUBJECTS[name](engine)


def _bench_direct(
    benchmark: Callable[[Way], object], engine: clipper.Engine, name: str, size: int
) -> None:
    benchmark(subjects.direct(_subject(name, engine), size))


def _bench_engine(
    benchmark: Callable[[Way], object], engine: clipper.Engine, name: str, way: str
) -> None:
    subject = _subject(name, engine)
    with (
        subjects.every_row_counted(subject.model) as note,
        WAYS[way](subject) as run,
    ):
        benchmark(subjects.noted(run, note))


@pytest.mark.benchmark(group=GROUPS["no-op"])
@pytest.mark.parametrize("size", [1, 64])
def bench_no_op_direct(
    benchmark: Callable[[Way], object], engine: clipper.Engine, size: int
) -> None:
    _bench_direct(benchmark, engine, "no-op", size)


@pytest.mark.benchmark(group=GROUPS["no-op"])
@pytest.mark.parametrize("way", WAYS)
def bench_no_op_engine(
    benchmark: Callable[[Way], object], engine: clipper.Engine, way: str
) -> None:
    _bench_engine(benchmark, engine, "no-op", way)


@pytest.mark.benchmark(group=GROUPS["MLP"])
@pytest.mark.parametrize("size", [1, 16, 64])
def bench_mlp_direct(benchmark: Callable[[Way], object], engine: clipper.Engine, size: int) -> None:
    _bench_direct(benchmark, engine, "MLP", size)


@pytest.mark.benchmark(group=GROUPS["MLP"])
@pytest.mark.parametrize("way", WAYS)
def bench_mlp_engine(benchmark: Callable[[Way], object], engine: clipper.Engine, way: str) -> None:
    _bench_engine(benchmark, engine, "MLP", way)


@pytest.mark.benchmark(group=GROUPS["ResNet-20"])
@pytest.mark.parametrize("size", [1, 16, 64])
def bench_resnet_direct(
    benchmark: Callable[[Way], object], engine: clipper.Engine, size: int
) -> None:
    _bench_direct(benchmark, engine, "ResNet-20", size)


@pytest.mark.benchmark(group=GROUPS["ResNet-20"])
@pytest.mark.parametrize("way", WAYS)
def bench_resnet_engine(
    benchmark: Callable[[Way], object], engine: clipper.Engine, way: str
) -> None:
    _bench_engine(benchmark, engine, "ResNet-20", way)
