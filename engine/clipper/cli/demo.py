"""``clipper demo``: real models, open-loop load, a table and a picture."""

import importlib.util
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from clipper.application import Application, Prediction, PredictionFuture
from clipper.engine import Engine
from clipper.model import Model
from clipper.policies import MajorityVote
from clipper_adapters import OnnxModel, SklearnModel, TorchModel, zoo

_SLO = 0.02
_VOTERS = ("svm", "linear")


@dataclass(slots=True)
class Result:
    """What became of one application's share of the load."""

    application: Application
    rows: list[int]  # which held-out digit each query was
    latencies: list[float]  # seconds from the scheduled arrival; NaN: no end was seen
    answers: list[Prediction | None]
    offered: float  # rows per second, as scheduled
    seconds: float  # from the start to the last answer
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
            applications, direct = _deploy(engine, data)
        console.print(
            f"{len(data.x_test)} held-out digits, {rate:g} rows/s (Poisson), {seconds:g} s each, "
            f"objective {_SLO * 1e3:g} ms. The load generator shares the interpreter with the "
            "models; latency counts from the scheduled arrival."
        )
        results = [
            _replay(a, data.x_test, seconds=seconds, rate=rate, seed=seed, console=console)
            for a in applications
        ]
        console.print(_table(results, data.y_test))
        failed = False
        for result in results:
            compared, wrong = _compare(result, direct)
            console.print(
                f"{result.application.name}: {compared} served answers compared with the model "
                f"called directly, {wrong} differ"
            )
            failed |= wrong > 0 or compared == 0
        _draw(results, output)
        console.print(f"picture: {output}")
    return int(failed)


def _deploy(engine: Engine, data: Any) -> tuple[list[Application], dict[str, NDArray[Any]]]:
    """Deploy what is installed; the second result is what each says of each row by itself."""
    svm, linear = zoo.train_svm(data), zoo.train_svm(data, kernel="linear")
    models: dict[str, tuple[Any, Callable[[Any], Any]]] = {
        "svm": (SklearnModel(svm), svm.predict),
        "linear": (SklearnModel(linear), linear.predict),
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
    applications: list[Application] = []
    direct = {}
    for name, (adapter, call) in models.items():
        applications.append(engine.deploy(name, adapter, slo=_SLO))
        direct[name] = np.stack([np.asarray(call(row[None]))[0] for row in data.x_test])
    applications.append(
        engine.create_application(
            "vote", models=_VOTERS, slo=_SLO, policy=MajorityVote(), default=-1
        )
    )
    return applications, direct


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _replay(
    application: Application, rows: NDArray[Any], *, seconds: float, rate: float, seed: int,
    console: Console,
) -> Result:  # fmt: skip
    """Ask at times drawn beforehand, whatever has been answered by then."""
    random = np.random.default_rng(seed)
    # A Poisson process, given how many arrive: sorted uniform times.
    arrivals = np.sort(random.uniform(0, seconds, max(random.poisson(seconds * rate), 1)))
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
    # Now, as the vote asks these models again.
    replica = None
    if isinstance(application, Model):
        replica = application.describe()["versions"]["1"]["replicas"][0]
    offered = len(arrivals) / seconds
    return Result(application, chosen, latencies, answers, offered, elapsed, replica)


def _answered(result: Result) -> NDArray[np.bool_]:
    return np.array([p is not None and not p.is_default for p in result.answers])


def _table(results: list[Result], labels: NDArray[Any]) -> Table:
    table = Table("", title="served")
    columns = []
    for result in results:
        table.add_column(result.application.name, justify="right")
        answered = _answered(result)
        latencies = np.array(result.latencies)
        in_time = answered & (latencies <= _SLO)
        served = _served(result)
        said = [np.argmax(p.output) if np.ndim(p.output) else p.output for _, p in served]
        right = [label == labels[row] for (row, _), label in zip(served, said, strict=True)]
        known = latencies[answered & np.isfinite(latencies)] * 1e3
        p50, p99 = np.quantile(known, [0.5, 0.99]) if len(known) else (np.nan, np.nan)
        sizes = None if result.replica is None else result.replica["batch_rows"]
        columns.append([
            f"{result.offered:.0f}",
            f"{answered.sum() / result.seconds:.0f}",
            f"{in_time.sum() / result.seconds:.0f}",
            f"{in_time.mean():.1%}",
            f"{p50:.2f}",
            f"{p99:.2f}",
            "-" if sizes is None else f"{sizes['mean']:.2f} / {sizes['max']}",
            f"{np.mean(right):.3f}" if right else "-",
            f"{np.mean([p.confidence for _, p in served]):.2f}" if served else "-",
            " ".join(f"{n} {c}" for c, n in result.application.describe()["causes"].items()) or "-",
        ])  # fmt: skip
    titles = ("offered, rows/s", "answered, rows/s", "in time, rows/s", "in time, of offered",
              "p50 of answers, ms", "p99 of answers, ms", "batch, mean / max", "accuracy",
              "mean confidence", "not answered")  # fmt: skip
    for title, *cells in zip(titles, *columns, strict=True):
        table.add_row(title, *cells)
    return table


def _served(result: Result) -> list[tuple[int, Prediction]]:
    return [
        (row, prediction)
        for row, prediction in zip(result.rows, result.answers, strict=True)
        if prediction is not None and not prediction.is_default
    ]


def _compare(result: Result, direct: dict[str, NDArray[Any]]) -> tuple[int, int]:
    """Count the answers compared, and those that differ (beyond float rounding across batches)."""
    served = _served(result)
    wrong = 0
    for row, prediction in served:
        if result.application.name in direct:
            expected = direct[result.application.name][row]
        else:  # the vote of those that answered; ties go to the first
            votes = Counter(int(direct[m][row]) for m in _VOTERS if m not in prediction.missing)
            expected = votes.most_common(1)[0][0]
        wrong += not np.allclose(prediction.output, expected, rtol=1e-4, atol=1e-4)
    return len(served), wrong


def _draw(results: list[Result], output: str) -> None:
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for result in results:
        name = result.application.name
        latencies = np.sort(np.array(result.latencies)[_answered(result)]) * 1e3
        left.plot(latencies, np.linspace(0, 1, len(latencies)), label=name)
        if not isinstance(result.application, Model):
            continue
        sizes = np.unique(np.logspace(0, 7, 22, base=2).astype(int))
        bounds = np.array([result.application.batch_bound(int(n)) for n in sizes]) * 1e3
        (line,) = right.plot(sizes[bounds > 0], bounds[bounds > 0], label=f"{name}: learned bound")
        if result.replica is not None and result.replica["batches"]:
            run = result.replica["run_seconds"]["p50"] * 1e3
            mean = result.replica["batch_rows"]["mean"]
            right.plot(mean, run, "o", color=line.get_color(), label=f"{name}: mean rows, p50 run")
    left.axvline(_SLO * 1e3, color="grey", linestyle="--")
    left.set(xlabel="latency, ms", ylabel="share of answers", xscale="log", title="latency")
    right.set(
        xlabel="rows in a batch", ylabel="ms", xscale="log", yscale="log", title="time of a batch"
    )
    left.legend()
    right.legend(fontsize="small")
    figure.savefig(output, dpi=110, format="png")
