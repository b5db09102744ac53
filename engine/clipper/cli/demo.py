"""``clipper demo``: real models, open-loop load, a table and a picture."""

# The frameworks that it shows say little of their types.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

import importlib.util
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.linear_model import LogisticRegression

from clipper import load
from clipper.application import Application
from clipper.engine import Engine
from clipper.model import Model
from clipper.model_protocol import ModelAdapter, Runner
from clipper.policies import MajorityVote
from clipper_adapters import OnnxModel, SklearnModel, TorchModel, zoo

_SLO = 0.02
_VOTERS = ("svm", "linear", "logistic")


class _Timed:
    """An adapter whose batches are written down: (rows, seconds) of each."""

    def __init__(self, adapter: ModelAdapter) -> None:
        self._adapter = adapter
        self.input = adapter.input
        self.output = adapter.output
        self.batch_as: Literal["array", "dlpack"] = adapter.batch_as
        self.runs: list[tuple[int, float]] = []

    def load(self, device: str) -> Runner:
        runner = self._adapter.load(device)

        def run(batch: Any) -> Any:
            start = time.perf_counter()
            outputs = runner(batch)
            self.runs.append((len(batch), time.perf_counter() - start))
            return outputs

        return run

    def example(self) -> Any:
        return self._adapter.example()


@dataclass(frozen=True, slots=True)
class Service:
    """What the demo serves: its applications, and what is known of their models."""

    applications: list[Application]
    direct: dict[str, NDArray[Any]]  # what each model says of each held-out row by itself
    runs: dict[str, list[tuple[int, float]]]  # of each model's batches, the warm-up's included


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one application's share of the load."""

    application: Application
    load: load.LoadResult
    outputs: NDArray[Any]  # the load's, shape (n, ...)
    replica: dict[str, Any] | None  # a model's counters right after its own load


def run(seconds: float, rate: float, output: str, seed: int) -> int:
    """Train, deploy, replay held-out digits, and show what happened.

    Parameters
    ----------
    seconds : float
        Length of each application's load.
    rate : float
        Rows per second, as a Poisson process.
    output : str
        Where the picture goes.
    seed : int
        Of the arrivals and of which digits are asked.

    Returns
    -------
    int
        1 if an answer was wrong or an application gave none to compare, else 0.
    """
    console = Console()
    with Engine() as engine:
        with console.status("training and deploying"):
            data = zoo.digits()
            service = _deploy(engine, data)
        console.print(
            f"{len(data.x_test)} held-out digits, {rate:g} rows/s (Poisson), {seconds:g} s each, "
            f"objective {_SLO * 1e3:g} ms. The load generator shares the machine with the models, "
            "not the interpreter; latency counts from the scheduled arrival."
        )
        arrivals = load.poisson(rate, seconds, seed)
        if len(arrivals) == 0:
            arrivals = np.zeros(1)  # at least one, however short the load
        results = [_replay(a, data.x_test, arrivals, seed, console) for a in service.applications]
        console.print(_table(results, data.y_test))
        failed = False
        for result in results:
            compared, wrong = _compare(result, service.direct)
            console.print(
                f"{result.application.name}: {compared} served answers compared with the model "
                f"called directly, {wrong} differ"
            )
            failed |= wrong > 0 or compared == 0
        _draw(results, service.runs, output)
        console.print(f"picture: {output}")
    return int(failed)


def _deploy(engine: Engine, data: Any) -> Service:
    """Deploy what is installed."""
    svm, linear = zoo.train_svm(data), zoo.train_svm(data, kernel="linear")
    logistic = LogisticRegression(max_iter=1000).fit(data.x_train, data.y_train)
    models: dict[str, tuple[ModelAdapter, Callable[[Any], Any]]] = {
        "svm": (SklearnModel(svm), svm.predict),
        "linear": (SklearnModel(linear), linear.predict),
        "logistic": (SklearnModel(logistic), logistic.predict),
    }
    if _installed("torch"):
        import torch  # noqa: PLC0415 - optional

        mlp = zoo.train_mlp(data)
        models["mlp"] = TorchModel(mlp, threads=1), lambda x: mlp(torch.from_numpy(x)).detach()
        if _installed("onnx") and _installed("onnxruntime"):
            import onnxruntime  # noqa: PLC0415 - optional

            with tempfile.TemporaryDirectory() as folder:
                content = zoo.export_onnx(mlp, (64,), Path(folder) / "mlp.onnx").read_bytes()
            session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
            models["onnx"] = (
                OnnxModel(content, threads=1),
                lambda x: session.run(None, {"input": x})[0],
            )
    service = Service([], {}, {})
    for name, (adapter, call) in models.items():
        timed = _Timed(adapter)
        service.applications.append(engine.deploy(name, timed, slo=_SLO))
        service.runs[name] = timed.runs
        service.direct[name] = np.stack([np.asarray(call(row[None]))[0] for row in data.x_test])
    service.applications.append(
        engine.create_application(
            "vote", models=_VOTERS, slo=_SLO, policy=MajorityVote(), default=-1
        )
    )
    return service


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _replay(
    application: Application,
    rows: NDArray[Any],
    arrivals: load.Times,
    seed: int,
    console: Console,
) -> Result:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(application.name, total=len(arrivals))
        result = load.run(
            application, rows, arrivals, seed=seed,
            progress=lambda ended, of: bar.update(task, completed=ended),
        )  # fmt: skip
    # Now, as the vote asks these models again.
    replica = None
    if isinstance(application, Model):
        replica = application.describe()["versions"]["1"]["replicas"][0]
    assert result.outputs is not None  # as they are kept if not told otherwise
    return Result(application, result, result.outputs, replica)


def _table(results: list[Result], labels: NDArray[Any]) -> Table:
    table = Table(title="served", box=SIMPLE_HEAD)  # narrow enough for 80 columns
    table.add_column("", no_wrap=True)
    columns = []
    for result in results:
        table.add_column(result.application.name, justify="right")
        load = result.load
        seconds = max(float((load.arrivals + load.latency).max()), 1e-9)  # to the last end
        sizes = None if result.replica is None else result.replica["batch_rows"]
        answered = load.answered
        right = _labels(result.outputs[answered]) == labels[load.chosen[answered]]
        columns.append([
            f"{load.offered:.0f}",
            f"{answered.sum() / seconds:.0f}",
            f"{load.in_time.sum() / seconds:.0f}",
            f"{load.in_time_share:.1%}",
            f"{load.p50 * 1e3:.2f}",
            f"{load.p99 * 1e3:.2f}",
            "-" if sizes is None else f"{sizes['mean']:.2f}/{sizes['max']}",
            f"{right.mean():.3f}" if len(right) else "-",
            f"{load.confidence[answered].mean():.2f}" if len(right) else "-",
            "\n".join(f"{n} {c.name.lower()}" for c, n in load.causes.items()) or "-",
            f"{load.lateness_p99 * 1e3:.2f}",
        ])  # fmt: skip
    titles = ("offered, rows/s", "answered, rows/s", "in time, rows/s", "in time, of offered",
              "p50 of answers, ms", "p99 of answers, ms", "batch, mean/max", "accuracy",
              "mean confidence", "not answered", "asked late, p99, ms")  # fmt: skip
    for title, *cells in zip(titles, *columns, strict=True):
        table.add_row(title, *cells)
    return table


def _labels(outputs: NDArray[Any]) -> NDArray[Any]:
    """Return the digits that outputs stand for: themselves, or the largest of ten logits."""
    return outputs if outputs.ndim == 1 else outputs.argmax(axis=1)


def _compare(result: Result, direct: dict[str, NDArray[Any]]) -> tuple[int, int]:
    """Count the answers compared, and those that differ (beyond float rounding across batches)."""
    load = result.load
    compared = wrong = 0
    for arrival in np.flatnonzero(load.answered):
        row = load.chosen[arrival]
        if result.application.name in direct:
            expected = direct[result.application.name][row]
        else:  # the vote of those that answered; ties go to the first
            voted = [m for bit, m in enumerate(_VOTERS) if load.models[arrival] >> bit & 1]
            expected = Counter(int(direct[m][row]) for m in voted).most_common(1)[0][0]
        compared += 1
        wrong += not np.allclose(result.outputs[arrival], expected, rtol=1e-4, atol=1e-4)
    return compared, wrong


def _draw(results: list[Result], runs: dict[str, list[tuple[int, float]]], output: str) -> None:
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for result in results:
        name = result.application.name
        latencies = np.sort(result.load.latency[result.load.answered]) * 1e3
        left.plot(latencies, np.linspace(0, 1, len(latencies)), label=name)
        if not isinstance(result.application, Model):
            continue
        measured = np.array(runs[name])
        largest = measured[:, 0].max()
        sizes = np.unique(np.logspace(0, np.log2(largest), 22, base=2).astype(int))
        bounds = np.array([result.application.batch_bound(int(n)) for n in sizes]) * 1e3
        (line,) = right.plot(sizes[bounds > 0], bounds[bounds > 0], label=f"{name}: learned bound")
        right.plot(
            measured[:, 0], measured[:, 1] * 1e3, ".", color=line.get_color(), alpha=0.15,
            markersize=4,
        )  # fmt: skip
    left.axvline(_SLO * 1e3, color="grey", linestyle="--")
    left.set(xlabel="latency, ms", ylabel="share of answers", xscale="log", title="latency")
    right.set(
        xlabel="rows in a batch", ylabel="ms", xscale="log", yscale="log",
        title="time of a batch: each run a point",
    )  # fmt: skip
    left.legend()
    right.legend(fontsize="small")
    figure.savefig(output, dpi=110, format="png")
