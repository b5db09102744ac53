"""``clipper demo``: real models, open-loop load, a table and a picture."""

import importlib.util
import time
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from clipper.application import Application, Prediction, PredictionFuture
from clipper.engine import Engine
from clipper.model import Model
from clipper.policies import MajorityVote
from clipper_adapters import OnnxModel, SklearnModel, TorchModel, zoo

_SLO = 0.05


@dataclass(slots=True)
class Result:
    """What became of one application's share of the load."""

    application: Application
    rows: list[int]  # which held-out digit each query was
    latencies: list[float]  # seconds from the scheduled arrival; NaN: not answered
    answers: list[Prediction | None]
    seconds: float


def run(seconds: float, rate: float, output: str, seed: int) -> int:
    """Train, deploy, replay held-out digits, and show what happened."""
    console = Console()
    data = zoo.digits()
    rows = np.ascontiguousarray(data.x_test)
    with Engine() as engine, console.status("training and deploying"):
        applications, direct = _deploy(engine, data)
        console.print(
            f"{len(rows)} held-out digits, {rate:g} rows/s (Poisson), objective {_SLO * 1e3:g} ms; "
            "the load comes from a Python thread, so it shares the interpreter with the models"
        )
        status = 0
        results = []
        for application in applications:
            results.append(
                _replay(application, rows, seconds=seconds, rate=rate, seed=seed, console=console)
            )
        console.print(_table(results, data.y_test))
        for result in results:
            compared, wrong = _compare(result, direct.get(result.application.name), rows)
            if compared:
                console.print(
                    f"{result.application.name}: {compared} served answers compared with the model "
                    f"called directly, {wrong} differ"
                )
            status |= wrong > 0
        _draw(results, output)
        console.print(f"picture: {output}")
    return int(status)


def _deploy(engine: Engine, data: Any) -> tuple[list[Application], dict[str, NDArray[Any]]]:
    """Deploy what is installed; the second result is what each model says when called directly."""
    svm, linear = zoo.train_svm(data), zoo.train_svm(data, kernel="linear")
    models: dict[str, Any] = {"svm": SklearnModel(svm), "linear": SklearnModel(linear)}
    if importlib.util.find_spec("torch") is not None:
        mlp = zoo.train_mlp(data)
        models["mlp"] = TorchModel(mlp, threads=1)
        if importlib.util.find_spec("onnxruntime") is not None:
            import tempfile  # noqa: PLC0415
            from pathlib import Path  # noqa: PLC0415

            with tempfile.TemporaryDirectory() as folder:
                path = zoo.export_onnx(mlp, (64,), Path(folder) / "mlp.onnx")
                models["onnx"] = OnnxModel(path.read_bytes(), threads=1)
    applications: list[Application] = []
    direct = {}
    for name, adapter in models.items():
        applications.append(engine.deploy(name, adapter, slo=_SLO))
        runner = adapter.load("cpu")
        direct[name] = np.stack([np.asarray(runner(row[None]))[0] for row in data.x_test])
    applications.append(
        engine.create_application(
            "vote", models=["svm", "linear"], slo=_SLO, policy=MajorityVote(), default=-1
        )
    )
    return applications, direct


def _replay(
    application: Application, rows: NDArray[Any], *, seconds: float, rate: float, seed: int,
    console: Console,
) -> Result:  # fmt: skip
    """Ask at times drawn beforehand, whatever has been answered by then."""
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / rate, max(int(seconds * rate), 1)))
    chosen = random.integers(len(rows), size=len(arrivals)).tolist()
    latencies = [float("nan")] * len(arrivals)
    futures: list[PredictionFuture] = []
    start = time.monotonic()

    def note(number: int) -> Any:
        # From the scheduled arrival, so that a late generator does not hide waiting.
        def done(future: PredictionFuture) -> None:
            latencies[number] = time.monotonic() - start - arrivals[number]

        return done

    for number in track(range(len(arrivals)), application.name, console=console, transient=True):
        time.sleep(max(start + arrivals[number] - time.monotonic(), 0.0))
        futures.append(application.submit(rows[chosen[number]]))
        futures[-1].add_done_callback(note(number))
    answers = [None if f.exception() is not None else f.result() for f in futures]
    elapsed = time.monotonic() - start
    until = time.monotonic() + 1.0
    while time.monotonic() < until and np.isnan(latencies).any():
        time.sleep(0.001)  # the last callbacks are under way
    return Result(application, chosen, latencies, answers, elapsed)


def _answered(result: Result) -> NDArray[np.bool_]:
    return np.array([p is not None and not p.is_default for p in result.answers])


def _table(results: list[Result], labels: NDArray[Any]) -> Table:
    table = Table(title="served")
    for column in ("application", "offered/s", "answered/s", "in time", "p50 ms", "p99 ms",
                   "batch mean/max", "accuracy", "confidence"):  # fmt: skip
        table.add_column(column, justify="left" if column == "application" else "right")
    for result in results:
        answered = _answered(result)
        latencies = np.array(result.latencies)
        right, sure = [], []
        for row, prediction in zip(result.rows, result.answers, strict=True):
            if prediction is not None and not prediction.is_default:
                label = prediction.output if np.ndim(prediction.output) == 0 else np.argmax(
                    prediction.output
                )  # fmt: skip
                right.append(label == labels[row])
                sure.append(prediction.confidence)
        sizes = "-"
        if isinstance(result.application, Model):
            replica = result.application.describe()["versions"]["1"]["replicas"][0]
            sizes = f"{replica['batch_rows']['mean']:.1f}/{replica['batch_rows']['max']}"
        table.add_row(
            result.application.name, f"{len(answered) / result.seconds:.0f}",
            f"{answered.sum() / result.seconds:.0f}",
            f"{(answered & (latencies <= _SLO)).mean():.3f}",
            f"{np.nanmedian(latencies) * 1e3:.2f}", f"{np.nanquantile(latencies, 0.99) * 1e3:.2f}",
            sizes, f"{np.mean(right):.3f}" if right else "-",
            f"{np.mean(sure):.2f}" if sure else "-",
        )  # fmt: skip
    return table


def _compare(result: Result, direct: NDArray[Any] | None, rows: NDArray[Any]) -> tuple[int, int]:
    """Count the answers compared, and those that differ (beyond float rounding across batches)."""
    if direct is None:
        return 0, 0
    served = [
        (row, prediction.output)
        for row, prediction in zip(result.rows, result.answers, strict=True)
        if prediction is not None and not prediction.is_default
    ]
    wrong = sum(not np.allclose(out, direct[row], rtol=1e-4, atol=1e-4) for row, out in served)
    return len(served), wrong


def _draw(results: list[Result], output: str) -> None:
    mpl.use("Agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5))
    for result in results:
        latencies = np.sort(np.array(result.latencies)[_answered(result)]) * 1e3
        left.plot(latencies, np.linspace(0, 1, len(latencies)), label=result.application.name)
        if isinstance(result.application, Model) and result.application._current is not None:
            runner = result.application._current.core.runners[0]
            sizes = np.unique(np.logspace(0, 7, 22, base=2).astype(int))
            bounds = np.array([runner.bound(int(size)) for size in sizes]) * 1e3
            right.plot(sizes, bounds, marker=".", label=f"{result.application.name}: 0.99 bound")
    left.axvline(_SLO * 1e3, color="grey", linestyle="--")
    left.set(xlabel="latency, ms", ylabel="share of queries", xscale="log", title="latency")
    right.set(
        xlabel="rows in a batch", ylabel="ms", xscale="log", yscale="log",
        title="learned time of a batch",
    )  # fmt: skip
    left.legend()
    right.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(output, dpi=110)
    plt.close(figure)
