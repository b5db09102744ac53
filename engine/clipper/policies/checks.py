"""Checks that several policies share."""

import math
from collections.abc import Mapping
from types import MappingProxyType


def checked_weights(policy: str, given: Mapping[str, float]) -> Mapping[str, float]:
    """Return weights as they are kept; ValueError unless they can be used."""
    weights = {str(name): float(weight) for name, weight in dict(given).items()}
    if (
        not weights
        or not all(weight >= 0.0 for weight in weights.values())
        or not 0.0 < sum(weights.values()) < 1e300
    ):
        raise ValueError(
            f"{policy} weights are {given!r}: give finite weights of at least 0, "
            "one of them positive, such as {'old': 0.9, 'new': 0.1}"
        )
    return MappingProxyType(weights)


def ordered(policy: str, weights: Mapping[str, float], models: list[str]) -> list[float]:
    """Bring weights into the order of the application's models."""
    if set(weights) != set(models):
        raise ValueError(
            f"{policy} has weights for {sorted(weights)}, but the application links "
            f"{sorted(models)}: name exactly those"
        )
    return [weights[name] for name in models]


def check_range(
    policy: str, name: str, value: float, low: float, high: float, *, open_low: bool = False
) -> None:
    """Raise ValueError unless a parameter lies where it must."""
    if not low <= value <= high or (open_low and value == low):
        opening = "above" if open_low else "from"
        limit = "" if math.isinf(high) else f" to {high:g}"
        raise ValueError(f"{policy}({name}={value!r}): give a number {opening} {low:g}{limit}")


def failure_loss_to_core(policy: str, loss: float | None) -> float:
    """Return what a failure counts as; not a number where it counts for nothing."""
    if loss is None:
        return math.nan
    check_range(policy, "failure_loss", loss, 0.0, 1.0)
    return float(loss)


def memory_to_core(policy: str, memory: float | None) -> float:
    """Return the memory of the bandits; infinity where nothing fades."""
    if memory is None:
        return math.inf
    check_range(policy, "memory", memory, 1.0, math.inf)
    return float(memory)
