"""Predicts for every row of a file, with a progress bar.

    python examples/batch_job/job.py rows.npy outputs.npy

``predict_many`` keeps its rows in order and forms batches as large as the model likes; a job has no
deadline, so there is no SLO. A row that the model fails on becomes the default, and is counted.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

import clipper

PART = 4096  # rows of one call: they are copied once, so this bounds what the job holds


def total(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stand in for your model."""
    return np.asarray(batch.sum(axis=1), np.float32)


def run(source: Path, target: Path) -> int:
    """Predict for a file of rows; returns how many of them failed."""
    rows = np.load(source, mmap_mode="r")
    failed = 0
    outputs = np.lib.format.open_memmap(target, "w+", np.float32, (len(rows),))
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with clipper.Engine() as engine, Progress(*columns, console=Console(stderr=True)) as progress:
        warmup = np.zeros(rows.shape[1:], np.float32)
        model = engine.deploy("total", total, warmup=warmup, default=np.nan)
        task = progress.add_task("rows", total=len(rows))
        for start in range(0, len(rows), PART):
            part = np.asarray(rows[start : start + PART], np.float32)
            predictions = model.predict_many(part)
            outputs[start : start + len(part)] = predictions.output
            failed += int(np.sum(predictions.is_default))
            progress.advance(task, len(part))
    outputs.flush()
    return failed


def main(arguments: list[str]) -> int:
    """Run the command line."""
    if len(arguments) != 2:
        print("usage: job.py ROWS.npy OUTPUTS.npy", file=sys.stderr)
        return 2
    failed = run(Path(arguments[0]), Path(arguments[1]))
    print(f"{failed} rows failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
