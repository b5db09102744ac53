"""What an application may link: models that fit together and can keep its objective."""

from collections.abc import Mapping, Sequence

from .cascade import Cascade
from .model import Deployment, Model
from .pipelines import Pipeline
from .policies import NativePolicy, Policy
from .sizes import to_bytes
from .stage_binding import least_time

_LEAST_CONTEXT_BYTES = 64 << 10


def to_context_bytes(memory: int | str) -> int:
    """Read what contexts may take; raises ValueError where that is too little to be of use."""
    size = to_bytes(memory)
    if size < _LEAST_CONTEXT_BYTES:
        raise ValueError(f"context_memory is {memory!r}: give 64KiB or more, such as '64MiB'")
    return size


def check_links(
    name: str,
    models: Sequence[Model],
    *,
    slo: float | None,
    policy: Policy | Cascade | Pipeline | None,
    min_confidence: float | None,
) -> None:
    """Raise ValueError unless an application of these models can serve."""
    names = [model.name for model in models]
    if not models or len(set(names)) != len(models):
        raise ValueError(f"models={names!r}: name at least one, each once")
    if policy is None and len(models) > 1:
        raise ValueError(
            f"application {name!r} links {len(models)} models: say how to choose among them "
            "with policy=, such as MajorityVote(), WeightedSplit({...}) or Cascade(0.9)"
        )
    if min_confidence is not None and not 0.0 <= min_confidence <= 1.0:
        raise ValueError(f"min_confidence is {min_confidence!r}: give a number from 0 to 1")
    if isinstance(policy, NativePolicy) and getattr(policy, "takes_mean", False):
        _check_mean(name, models[0])
    for model in models:
        if not isinstance(policy, Pipeline):  # whose models take each other's outputs
            _check_fits(model, models[0])
        if model._current is not None:
            check_objective(slo, model.name, model._current)
    seconds, chain = least_time(policy, models)
    if slo is not None and slo <= seconds:
        raise ValueError(
            f"slo is {slo * 1e3:g} ms, but every query goes through "
            f"{' → '.join(map(repr, chain))}, which take {seconds * 1e3:.3g} ms together for one "
            "row (medians, measured while they were warmed up): give an objective above that"
        )


def check_objective(slo: float | None, name: str, deployment: Deployment) -> None:
    """Raise ValueError if a single row takes longer than the objective."""
    latency = deployment.single_row_seconds
    if slo is not None and latency is not None and slo <= latency:
        raise ValueError(
            f"slo is {slo * 1e3:g} ms, but model {name!r} takes {latency * 1e3:.3g} ms for one row "
            "(median, measured while it was warmed up): give an objective above that"
        )


def _check_fits(model: Model, first: Model) -> None:
    if (model.input.tensors, model.output.tensors) != (first.input.tensors, first.output.tensors):
        raise ValueError(
            f"models {first.name!r} and {model.name!r} do not fit into one application: "
            f"{first.input.tensors!r} → {first.output.tensors!r} against "
            f"{model.input.tensors!r} → {model.output.tensors!r}"
        )


def _check_mean(name: str, model: Model) -> None:
    tensors = model.output.tensors
    for tensor in tensors.values() if isinstance(tensors, Mapping) else (tensors,):
        if str(tensor.dtype) not in {"float32", "float64"} or None in tensor.shape:
            raise ValueError(
                f"application {name!r} takes a mean, but its models give {tensor!r}: a mean can "
                "be taken of float32 or float64 of a fixed shape; otherwise leave takes_mean out"
            )
