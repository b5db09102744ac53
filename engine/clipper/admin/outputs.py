"""What workers print, gathered from a model's replicas as long as somebody follows it."""

import time
from collections.abc import Iterator
from typing import Any

from clipper.model import Model
from clipper.replicas.isolated import IsolatedReplicaThread
from clipper.replicas.supervisor import Output

_POLL_SECONDS = 0.1


def follow(model: Model, lines: int, following: bool) -> Iterator[list[dict[str, Any]]]:
    """Yield what is kept, ``lines`` of each worker at most, and if asked what comes.

    Nothing new for a moment yields an empty list, so that whoever follows can look up.
    """
    places: dict[Output, int] = {}
    yield _new(model, places, lines)
    while following and model.version is not None:
        time.sleep(_POLL_SECONDS)
        yield _new(model, places, None)


def _new(model: Model, places: dict[Output, int], most: int | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for deployment in list(model._versions):
        isolated = [t for t in deployment.threads if isinstance(t, IsolatedReplicaThread)]
        for replica, thread in enumerate(isolated):
            of = {"version": deployment.core.version, "replica": replica}
            for pid, output in thread.outputs:
                lines, places[output] = output.since(places.get(output, 0))
                kept = lines if most is None else lines[max(len(lines) - most, 0) :]
                found += [{**of, "pid": pid, "line": line} for line in kept]
    return found
