"""Ensembles with a straggler: answers held by the objective against answers that wait for all.

    python bench/stragglers.py [--queries 100] [--output DIR]

Ensembles of 1 to 16 models take 2 ms a row, as they sleep without the GIL. Each model knows another
part of what is asked. In one query of four one model, chosen by turns, straggles: it takes 60 ms.
One application has an objective of 20 ms and answers with what is there by then; the other waits.
The setting is that of figure 9 of Crankshaw et al., "Clipper", NSDI 2017.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import clipper

SIZES = (1, 2, 4, 8, 12, 16)
SLO, QUICK, SLOW = 0.020, 0.002, 0.060
EVERY = 4  # queries, of which one has a straggler
WRONG = 0.3  # share of the rows that a model by itself gets wrong
NOBODY, NOTHING = -1, -2  # no straggler; the default


def model_of(place: int) -> Any:
    """Make a model; a row names its straggler, what is right, and draws what the models know."""

    def answer(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        time.sleep(SLOW if (rows[:, 0] == place).any() else QUICK)
        knows = [np.random.default_rng([place, int(row[2])]).random() >= WRONG for row in rows]
        return np.where(knows, rows[:, 1], 10 + place)

    return answer


@dataclass
class Seen:
    """What became of the queries of one application; each list has one entry a query."""

    latency: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    missing: list[dict[str, clipper.Cause]] = field(default_factory=list)
    straggler: list[int] = field(default_factory=list)

    @property
    def p99(self) -> float:
        """Seconds."""
        return float(np.quantile(self.latency, 0.99))

    def accuracy(self, *, complete: bool) -> float:
        """Share right, of the answers with all models or of those that lack some."""
        which = [r for r, m in zip(self.right, self.missing, strict=True) if (not m) == complete]
        return float(np.mean(which)) if which else float("nan")


def ask(size: int, queries: int) -> tuple[Seen, Seen]:
    """Return what the application with an objective saw, and the one that waits."""
    with clipper.Engine() as engine:
        names = [f"model-{place}" for place in range(size)]
        for place, name in enumerate(names):
            engine.deploy(
                name, model_of(place), warmup=np.array([NOBODY, 0, 0], np.int64),
                input=clipper.Tensor("int64", (3,)), output=clipper.Tensor("int64", ()),
            )  # fmt: skip
        seen = []
        for slo in (SLO, None):
            application = engine.create_application(
                f"slo-{slo}", models=names, slo=slo, policy=clipper.MajorityVote(), default=NOTHING
            )
            seen.append(_serve(application, size, queries))
    return seen[0], seen[1]


def _serve(application: clipper.Application, size: int, queries: int) -> Seen:
    seen = Seen()
    for query in range(queries):
        straggler = query // EVERY % size if query % EVERY == 0 else NOBODY
        label = query % 10
        start = time.perf_counter()
        prediction = application.predict(np.array([straggler, label, query], np.int64))
        seen.latency.append(time.perf_counter() - start)
        seen.right.append(bool(prediction.output == label))
        seen.confidence.append(prediction.confidence)
        seen.missing.append(prediction.missing)
        seen.straggler.append(straggler)
        if straggler != NOBODY:
            time.sleep(SLOW)  # it is to be late for this query only
    return seen


def draw(results: dict[int, tuple[Seen, Seen]], output: Path) -> None:
    """Draw the table."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = list(results)
    for place, name in enumerate(("held", "waiting")):
        of = [result[place] for result in results.values()]
        left.plot(sizes, [s.p99 * 1e3 for s in of], "o-", label=f"{name}, p99")
        left.plot(sizes, [np.mean(s.latency) * 1e3 for s in of], "o--", label=f"{name}, mean")
    left.axhline(SLO * 1e3, color="grey", linestyle=":")
    left.set(xlabel="models", ylabel="ms", title="latency", ylim=(0, None))
    held = [result[0] for result in results.values()]
    right.plot(sizes, [s.accuracy(complete=True) for s in held], "o-", label="all answered")
    right.plot(sizes, [s.accuracy(complete=False) for s in held], "o-", label="one missing")
    right.set(xlabel="models", ylabel="share right", title="accuracy, held", ylim=(0, 1.02))
    for axis in (left, right):
        axis.legend()
    figure.savefig(output, dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all sizes, print and draw them; 1 if an ensemble was not held."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path(), help="folder of stragglers.png")
    arguments = parser.parse_args(argv)
    results = {}
    print("models  p99 held  waiting  mean held  waiting   missing  right: all there  one missing")
    for size in SIZES:
        results[size] = held, waits = ask(size, arguments.queries)
        print(
            f"{size:6}  {held.p99 * 1e3:5.1f} ms {waits.p99 * 1e3:5.1f} ms"
            f"   {np.mean(held.latency) * 1e3:5.1f} ms {np.mean(waits.latency) * 1e3:5.1f} ms"
            f"   {np.mean([len(m) for m in held.missing]) / size:7.1%}"
            f"  {held.accuracy(complete=True):16.1%}  {held.accuracy(complete=False):11.1%}",
            flush=True,
        )
    draw(results, arguments.output / "stragglers.png")
    return int(any(held.p99 > waits.p99 / 2 for held, waits in results.values()))


if __name__ == "__main__":
    sys.exit(main())
