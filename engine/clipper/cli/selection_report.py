"""``clipper demo selection``: what the policies did, as a table and a picture."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import numpy as np
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from .selection import BEST, FAILS, QUERIES, RECOVERS, Outcome, measure


def run(output: str, seed: int) -> int:
    """Serve, and show what happened.

    Parameters
    ----------
    output : str
        Where the picture goes.
    seed : int
        Of what the models learn and of what is asked.

    Returns
    -------
    int
        1 if a policy did not leave the failing model or did not come back to it, else 0.
    """
    console = Console()
    console.print(
        f"{QUERIES} handwritten digits with feedback, five models; from query {FAILS} to "
        f"{RECOVERS} {BEST}, the best of them, gets its pixels in the wrong order."
    )
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("asking", total=QUERIES)
        outcome = measure(seed, lambda done, of: bar.update(task, completed=done))
    console.print(_table(outcome))
    _draw(outcome, output)
    console.print(f"picture: {output}")
    moments = [when(p) for p in outcome.shares for when in (outcome.left, outcome.returned)]
    return int(None in moments)


def _table(outcome: Outcome) -> Table:
    title = f"wrong answers, and how long it took to leave {BEST} and to return"
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    columns = ("in all", f"{BEST} works", f"{BEST} fails", "queries to leave", "to return")
    for column in columns:
        table.add_column(column, justify="right")
    for name, wrong in outcome.wrong.items():
        learns = name in outcome.shares
        table.add_row(
            name,
            f"{wrong.sum()}",
            f"{outcome.error(name, failing=False):.1%}",
            f"{outcome.error(name, failing=True):.1%}",
            _moment(outcome.left(name)) if learns else "",
            _moment(outcome.returned(name)) if learns else "",
        )
    return table


def _moment(queries: int | None) -> str:
    return "never" if queries is None else str(queries)


def _draw(outcome: Outcome, output: str) -> None:
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplot_mosaic([["errors", "errors"], ["Exp3", "Exp4"]])
    step = slice(None, None, 20)
    queries = np.arange(QUERIES)
    for name, wrong in outcome.wrong.items():
        style = "-" if name in outcome.shares else "--"
        cumulative = np.cumsum(wrong) / (queries + 1)
        axes["errors"].plot(queries[step], cumulative[step], style, label=name)
    axes["errors"].set(
        xlabel="queries", ylabel="share of wrong answers so far", title="error", ylim=(0, 0.5)
    )
    for policy, shares in outcome.shares.items():
        for name, share in zip(outcome.models, shares.T, strict=True):
            axes[policy].plot(queries[step], share[step], label=name)
        of = "share of the last questions" if policy == "Exp3" else "weight"
        axes[policy].set(xlabel="queries", ylabel=of, title=policy, ylim=(0, 1))
    for axis in axes.values():
        axis.axvspan(FAILS, RECOVERS, color="grey", alpha=0.15)
        axis.legend(fontsize="small")
    figure.savefig(output, dpi=110, format="png")
