"""Values that come in kinds: policies, batching, caches, places, losses.

Each is written as the name of its kind, or as a table of the kind and its parameters.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import clipper
from clipper import batching as strategies
from clipper import policies
from clipper.cache import Cache
from clipper.cascade import Cascade
from clipper.feedback import Loss, LossName
from clipper.pipelines import Pipeline
from clipper.replicas.isolation import Isolated
from clipper.shadow import Shadow

from .problems import nearest, unknown_keys
from .stages import answer, stage
from .values import (
    Reader,
    anything,
    duration,
    is_array,
    is_table,
    named,
    number,
    one_of,
    or_none,
    path,
    program,
    several,
    size,
    text,
    truth,
    whole,
)


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind is made, and its parameters by the names that they have in Python."""

    make: Callable[..., Any]
    parameters: Mapping[str, Reader]


@dataclass(frozen=True, slots=True)
class Thread:
    """Replicas on threads of the engine's process.

    Parameters
    ----------
    may_unpickle : bool, default False
        Whether the model may be a ``.joblib`` or ``.pkl`` file: loading one runs whatever it holds.
    """

    may_unpickle: bool = False


def _policy_or_model(value: Any, folder: Path) -> Any:
    """Read what stands before a shadow: a policy, or the name of a model."""
    is_policy = is_table(value) or value in POLICIES or ":" in str(value)
    return policy(value, folder) if is_policy else text(value, folder)


def _thresholds(value: Any, folder: Path) -> Any:
    return several(number, "thresholds")(value, folder) if is_array(value) else number(
        value, folder
    )  # fmt: skip


_failure_loss = or_none(number)
_weights = named(number, "weights")
_fewest = or_none(whole(1, 65_536))

POLICIES: dict[str, Kind] = {
    "canary": Kind(
        policies.Canary,
        {"model": text, "share": number, "min_count": whole(1, 10**15), "z": number},
    ),
    "cascade": Kind(Cascade, {"thresholds": _thresholds, "of": text}),
    "epsilon_greedy": Kind(
        policies.EpsilonGreedy,
        {"epsilon": number, "memory": or_none(number), "failure_loss": _failure_loss},
    ),
    "exp3": Kind(
        policies.Exp3,
        {"eta": number, "gamma": number, "floor": number, "failure_loss": _failure_loss},
    ),
    "exp4": Kind(
        policies.Exp4,
        {
            "eta": number,
            "floor": number,
            "takes_mean": truth,
            "failure_loss": _failure_loss,
            "fewest_under_load": _fewest,
        },
    ),
    "majority_vote": Kind(policies.MajorityVote, {"fewest_under_load": _fewest}),
    "pipeline": Kind(Pipeline, {"stages": named(stage, "stages"), "answer": answer}),
    "shadow": Kind(Shadow, {"of": _policy_or_model, "models": several(text, "models")}),
    "thompson": Kind(policies.Thompson, {"memory": or_none(number), "failure_loss": _failure_loss}),
    "ucb1": Kind(policies.Ucb1, {"memory": or_none(number), "failure_loss": _failure_loss}),
    "weighted_ensemble": Kind(
        policies.WeightedEnsemble,
        {"weights": _weights, "takes_mean": truth, "fewest_under_load": _fewest},
    ),
    "weighted_split": Kind(policies.WeightedSplit, {"weights": _weights}),
}

BATCHING: dict[str, Kind] = {
    "aimd": Kind(strategies.Aimd, {}),
    "deadline": Kind(strategies.Deadline, {"max_batch": whole(1, 65_536), "delay": duration}),
    "fixed": Kind(strategies.Fixed, {"rows": whole(1, 65_536)}),
    "quantile": Kind(strategies.Quantile, {}),
}

_ISOLATED: dict[str, Reader] = {
    "python": program,
    "image": text,
    "runtime": one_of("podman", "docker"),
    "container_args": several(text, "options"),
    "command": several(text, "arguments"),
    "timeout": or_none(duration),
    "paths": several(path, "folders"),
    "env": named(text, "environment variables"),
    "may_unpickle": truth,
    "output_bytes": size,
    "in_flight": whole(1, 2),
    "restarts": whole(1, 1_000_000),
    "window": duration,
}

PLACES: dict[str, Kind] = {
    # What this engine's Isolated has.
    "isolated": Kind(
        Isolated, {f.name: _ISOLATED[f.name] for f in fields(Isolated) if f.name in _ISOLATED}
    ),
    "thread": Kind(Thread, {"may_unpickle": truth}),
}

_LOSS_NAMES: tuple[LossName, ...] = ("zero_one", "absolute", "squared", "log")
LOSSES: dict[str, Kind] = {
    name: Kind(partial(Loss, name), {"scale": number}) for name in _LOSS_NAMES
}


def read_kind(value: Any, folder: Path, kinds: Mapping[str, Kind], what: str) -> Any:
    """Read a name, or a table with ``kind`` and parameters."""
    table = {"kind": value} if isinstance(value, str) else value
    if not is_table(table) or not isinstance(table.get("kind"), str):
        raise ValueError(
            f"{value!r} is no {what}: give its name, or a table such as "
            f'{{ kind = "{next(iter(kinds))}", … }}'
        )
    name = table["kind"]
    if name not in kinds:
        raise ValueError(f"{name!r} is no {what}: {nearest(name, kinds)}")
    kind = kinds[name]
    given = {key: one for key, one in table.items() if key != "kind"}
    wrong = unknown_keys(given, kind.parameters)
    if wrong:
        raise ValueError(f"{what} {name!r}: {'; '.join(wrong)}")
    return _made(kind, given, folder, f"{what} {name!r}")


def _made(kind: Kind, given: Mapping[str, Any], folder: Path, what: str) -> Any:
    values: dict[str, Any] = {}
    for key, one in given.items():
        try:
            values[key] = kind.parameters[key](one, folder)
        except ValueError as error:
            raise ValueError(f"{what}: {key}: {error}") from None
    try:
        inspect.signature(kind.make).bind(**values)
    except TypeError:
        missing = [key for key in kind.parameters if key not in values]
        raise ValueError(
            f"{what} needs more than that: give {' and '.join(map(repr, missing))}"
        ) from None
    try:
        return kind.make(**values)
    except TypeError as error:
        raise ValueError(str(error)) from None


def policy(value: Any, folder: Path) -> Any:
    """Read a policy, by kind, or as the name of a factory of one."""
    if isinstance(value, str) and ":" in value:
        return value
    return read_kind(value, folder, POLICIES, "policy")


def loss(value: Any, folder: Path) -> Any:
    """Read a loss, by kind, or as the name of a function of output and label."""
    if isinstance(value, str) and ":" in value:
        return value
    return read_kind(value, folder, LOSSES, "loss")


def batching(value: Any, folder: Path) -> strategies.Strategy:
    """Read a batching strategy."""
    made: strategies.Strategy = read_kind(value, folder, BATCHING, "batching strategy")
    return made


def where(value: Any, folder: Path) -> Thread | Isolated:
    """Read where replicas run."""
    made: Thread | Isolated = read_kind(value, folder, PLACES, "place")
    return made


def cache(value: Any, folder: Path) -> Cache | None:
    """Read a prediction cache: true, false, or a table of its parameters."""
    if isinstance(value, bool):
        return Cache() if value else None
    if not is_table(value):
        raise ValueError(f"{value!r} is no cache: give true, false or {{ ttl = …, bytes = … }}")
    made: Cache = _table(
        Kind(Cache, {"ttl": or_none(duration), "bytes": size}), value, folder, "cache"
    )
    return made


def resources(value: Any, folder: Path) -> Any:
    """Read what each replica gets, where this engine can set anything aside."""
    make: Any = getattr(clipper, "Resources", None)
    if make is None:
        raise ValueError("this engine cannot set resources aside for replicas yet: leave it out")
    if not is_table(value):
        raise ValueError(f"{value!r} is no table of resources: write {{ cpus = …, memory = … }}")
    sizes = {"memory": size, "gpu_memory": size}
    kind = Kind(make, {field.name: sizes.get(field.name, anything) for field in fields(make)})
    return _table(kind, value, folder, "resources")


def _table(kind: Kind, value: Mapping[str, Any], folder: Path, what: str) -> Any:
    wrong = unknown_keys(value, kind.parameters)
    if wrong:
        raise ValueError("; ".join(wrong))
    return _made(kind, value, folder, what)


log_level: Reader = one_of("debug", "info", "warning", "error")


def port(value: Any, folder: Path) -> Any:
    """Refuse: the place is kept for network ports."""
    raise ValueError("this engine serves no network ports yet: leave it out")


def confidence(value: Any, folder: Path) -> float:
    """Read a confidence."""
    share = number(value, folder)
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"{value!r} is no confidence: give a number from 0 to 1")
    return share
