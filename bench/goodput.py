"""Goodput against offered load, live: from half of what can be done to three times as much.

    python bench/goodput.py [--seconds 4] [--long-seconds 20] [--output DIR]

Two models, two objectives each: 20 ms, and ten times what a single row takes. The bare model's
l(b) gives the SLO capacity, the largest b / l(b) with l(b) <= SLO / 2; loads are multiples of it,
as Poisson processes. The bare model is measured again before and after each load, so that a machine
that drifts shows. See bench/README.md.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import clipper
from clipper import load
from clipper.load import LoadResult

#: Load, as a multiple of SLO capacity → what at least must be in time, of all up to capacity and of
#: capacity beyond.
WANTED = {0.5: 0.99, 0.8: 0.99, 0.9: 0.98, 0.95: 0.95, 1.5: 0.9, 3.0: 0.9}
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
POOL = 512
MOST_GROWTH = 1 << 20
ROW_FATES = ("refused", "hopeless", "expired", "withdrawn")

Array = NDArray[Any]


@dataclass(frozen=True)
class Subject:
    """A model, and the same model without us."""

    name: str
    adapter: Any
    bare: Callable[[Array], object]
    rows: Array


@dataclass
class Point:
    """One load, and what became of it."""

    load: float
    result: LoadResult
    capacity: float  # rows/s of the bare model: the mean of before and after
    mean_batch: float
    busy: float  # share of the time that the replica ran batches
    fates: dict[str, int]
    memory: list[int] = field(default_factory=list)  # resident bytes, sampled

    @property
    def reached(self) -> float:
        """What WANTED speaks of."""
        if self.load < 1:
            return self.result.in_time_share
        return self.result.goodput / self.capacity

    @property
    def memory_growth(self) -> int:
        """Bytes by which the second half of the run grew."""
        return max(self.memory[len(self.memory) // 2 :]) - self.memory[len(self.memory) // 2]


@dataclass
class Series:
    """One model under one objective."""

    subject: Subject
    objective: str
    slo: float
    batch: int  # that reaches capacity
    capacities: list[float] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.subject.name}, {self.objective} = {self.slo * 1e3:.2f} ms"

    @property
    def drift(self) -> float:
        """Largest less smallest measured capacity, over their median."""
        return float(np.ptp(self.capacities) / np.median(self.capacities))


# ---- the models --------------------------------------------------------------------------------


def mlp() -> Subject:
    import torch

    from clipper_adapters import TorchModel, zoo

    torch.set_num_threads(1)
    module = zoo.mlp_784()

    def bare(batch: Array) -> object:
        with torch.inference_mode():
            return module(torch.from_numpy(batch)).numpy()

    rows = np.random.default_rng(0).random((POOL, 784), dtype=np.float32)
    return Subject("MLP 784-512-512-10, torch", TorchModel(module, threads=1), bare, rows)


def resnet() -> Subject:
    import onnxruntime

    from clipper_adapters import OnnxModel, zoo

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet20.onnx"
        content = zoo.export_onnx(zoo.resnet20(), (3, 32, 32), path).read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def bare(batch: Array) -> object:
        return session.run(None, {"input": batch})[0]

    rows = np.random.default_rng(0).random((POOL, 3, 32, 32), dtype=np.float32)
    return Subject("ResNet-20, ONNX", OnnxModel(content, threads=1), bare, rows)


# ---- measuring ---------------------------------------------------------------------------------


def bare_seconds(subject: Subject, size: int, *, at_least: float = 0.05) -> float:
    """Return the median time of the bare model on a batch of ``size``."""
    batch = np.ascontiguousarray(subject.rows[:size])
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 7 or time.perf_counter() - began < at_least:
        start = time.perf_counter()
        subject.bare(batch)
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def bare_profile(subject: Subject) -> dict[int, float]:
    """Return l(b): three sweeps over the sizes, and the median of each."""
    sweeps = [[bare_seconds(subject, size) for size in SIZES] for _ in range(3)]
    return dict(zip(SIZES, np.median(sweeps, axis=0).tolist(), strict=True))


def best_batch(profile: dict[int, float], slo: float) -> int:
    """Return the batch that reaches SLO capacity."""
    within = [size for size, seconds in profile.items() if seconds <= slo / 2] or [1]
    return max(within, key=lambda size: size / profile[size])


def counters(model: clipper.Model) -> dict[str, float]:
    deployment = model.describe()["versions"]["1"]
    made = {fate: float(deployment[f"{fate}_rows"]) for fate in ROW_FATES}
    for name, key in (("run", "rows"), ("batches", "batches"), ("busy", "busy_seconds")):
        made[name] = sum(replica[key] for replica in deployment["replicas"])
    return made | {"open": deployment["outstanding_rows"]}


def settled(model: clipper.Model) -> dict[str, float]:
    """Return the counters once no row waits any more: withdrawn ones are met in the queue."""
    until = time.monotonic() + 5.0
    while (now := counters(model))["open"] and time.monotonic() < until:
        time.sleep(0.01)
    assert not now["open"], f"{now['open']} rows are still open"
    return now


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def offer(model: clipper.Model, series: Series, multiple: float, seconds: float) -> Point:
    """Offer one load between two measurements of the bare model."""
    subject, size = series.subject, series.batch

    def capacity() -> float:
        return size / bare_seconds(subject, size, at_least=0.2)

    before = settled(model)
    memory: list[int] = []
    capacities = [capacity()]
    arrivals = load.poisson(multiple * capacities[0], seconds, seed=int(multiple * 100))
    result = load.run(
        model, subject.rows, arrivals, keep_outputs=False,
        progress=lambda ended, of: memory.append(resident_bytes()),
    )  # fmt: skip
    after = settled(model)
    capacities.append(capacity())
    series.capacities += capacities
    delta = {name: after[name] - before[name] for name in after}
    accounted = delta["run"] + sum(delta[fate] for fate in ROW_FATES)
    assert accounted == len(arrivals), f"{len(arrivals)} were offered, {accounted} accounted for"
    return Point(
        load=multiple, result=result, capacity=float(np.mean(capacities)),
        mean_batch=delta["run"] / max(delta["batches"], 1), busy=delta["busy"] / arrivals[-1],
        fates={name: int(delta[name]) for name in ("run", *ROW_FATES)}, memory=memory,
    )  # fmt: skip


def measure(
    subject: Subject, objectives: tuple[str, ...], multiples: list[float], seconds: float
) -> list[Series]:
    made = []
    for objective in objectives:
        profile = bare_profile(subject)
        slo = 0.02 if objective == "20 ms" else 10 * profile[1]
        series = Series(subject, objective, slo, best_batch(profile, slo))
        capacity = series.batch / profile[series.batch]
        print(f"\n{series.title}: capacity {capacity:,.0f} rows/s in batches of {series.batch}")
        with clipper.Engine() as engine:
            model = engine.deploy("model", subject.adapter, slo=slo)
            # Not counted: what waking up takes is learned from the first answers.
            load.run(model, subject.rows, load.poisson(capacity / 2, 0.5, seed=1))
            for multiple in multiples:
                series.points.append(offer(model, series, multiple, seconds))
                print(line(series.points[-1]), flush=True)
        print(f"bare capacity over these loads: spread {series.drift:.0%} of the median")
        made.append(series)
    return made


def measure_memory(subject: Subject, seconds: float) -> Point:
    """Overload a model for longer, and watch the resident memory."""
    profile = bare_profile(subject)
    series = Series(subject, "20 ms", 0.02, best_batch(profile, 0.02))
    with clipper.Engine() as engine:
        model = engine.deploy("model", subject.adapter, slo=series.slo)
        return offer(model, series, 3.0, seconds)


# ---- showing -----------------------------------------------------------------------------------

HEAD = (
    "| load | offered, 1/s | in time | goodput / capacity | p50, ms | p99, ms | mean batch | busy "
    "| generator late p99 / max, ms | run / refused / hopeless / expired / withdrawn |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def line(point: Point) -> str:
    result = point.result
    cells = [
        f"{point.load:g}", f"{result.offered:,.0f}", f"{result.in_time_share:.3f}",
        f"{result.goodput / point.capacity:.3f}", f"{result.p50 * 1e3:.2f}",
        f"{result.p99 * 1e3:.2f}", f"{point.mean_batch:.1f}", f"{point.busy:.2f}",
        f"{result.lateness_p99 * 1e3:.2f} / {result.lateness_max * 1e3:.2f}",
        " / ".join(f"{count:,}" for count in point.fates.values()),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def shortfalls(made: list[Series]) -> list[str]:
    return [
        f"{series.title}, load {point.load:g}: {point.reached:.3f}, wanted {WANTED[point.load]:g}"
        for series in made
        for point in series.points
        if point.reached < WANTED.get(point.load, 0.0)
    ]


def draw(made: list[Series], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for series in made:
        loads = [point.load for point in series.points]
        goodput = [point.result.goodput / point.capacity for point in series.points]
        (curve,) = left.plot(loads, goodput, "o-", label=series.title)
        for quantile, style in (("p50", ":"), ("p99", "-")):
            right.plot(
                loads, [getattr(point.result, quantile) / series.slo for point in series.points],
                f"o{style}", color=curve.get_color(),
            )  # fmt: skip
    most = max(point.load for series in made for point in series.points)
    left.plot([0, 1, most], [0, 1, 1], color="grey", linestyle="--", label="all of it in time")
    left.set(xlabel="offered / SLO capacity", ylabel="in time / SLO capacity", title="goodput")
    right.axhline(1.0, color="grey", linestyle="--")
    right.set(xlabel="offered / SLO capacity", ylabel="latency / objective", title="answers")
    left.legend(fontsize="small")
    for quantile, style in (("p50", ":"), ("p99", "-")):
        right.plot([], [], f"o{style}", color="grey", label=quantile)
    right.legend()
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each load")
    parser.add_argument("--long-seconds", type=float, default=20.0, help="of the memory's load")
    parser.add_argument("--loads", type=float, nargs="+", default=list(WANTED))
    parser.add_argument("--models", nargs="+", choices=("mlp", "resnet"), default=("mlp", "resnet"))
    parser.add_argument(
        "--objectives", nargs="+", choices=("20 ms", "10 l(1)"), default=("20 ms", "10 l(1)")
    )
    parser.add_argument("--output", type=Path, default=Path(), help="folder of the picture")
    given = parser.parse_args()
    if not given.output.is_dir():
        parser.error(f"there is no folder {given.output}")
    subjects = [{"mlp": mlp, "resnet": resnet}[name]() for name in given.models]
    made = [
        series
        for subject in subjects
        for series in measure(subject, tuple(given.objectives), given.loads, given.seconds)
    ]
    print(f"\n{HEAD}")
    for series in made:
        print(f"| **{series.title}** |" + " |" * 9)
        print("\n".join(line(point) for point in series.points))
    failed = shortfalls(made)
    if given.long_seconds > 0:
        long = measure_memory(subjects[0], given.long_seconds)
        print(f"\nload 3 for {given.long_seconds:g} s, {subjects[0].name}:\n{line(long)}")
        print(f"resident memory grew by {long.memory_growth / 1024:,.0f} KiB in the second half")
        if long.memory_growth > MOST_GROWTH:
            failed.append(f"memory grew by {long.memory_growth:,} bytes, wanted {MOST_GROWTH:,}")
    draw(made, given.output / "goodput.png")
    print(f"picture: {given.output / 'goodput.png'}")
    print("\n".join(f"short: {text}" for text in failed) or "all as wanted")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
