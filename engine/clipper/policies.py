"""Selection policies: which of an application's models are asked, and what their answers make."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class WeightedSplit:
    """Asks one model for each query, chosen with fixed probabilities. For A/B tests and canaries.

    Parameters
    ----------
    weights : mapping of str to float
        Model name → weight, at least 0; the weights need not add up to 1. A query with a context
        always goes where its context goes.
    """

    weights: Mapping[str, float]
    asks_one: ClassVar[bool] = True

    def __post_init__(self) -> None:
        weights = {str(name): float(weight) for name, weight in dict(self.weights).items()}
        if not weights or min(weights.values()) < 0.0 or not 0.0 < sum(weights.values()) < 1e300:
            raise ValueError(
                f"WeightedSplit weights are {self.weights!r}: give finite weights of at least 0, "
                "one of them positive, such as {'old': 0.9, 'new': 0.1}"
            )
        object.__setattr__(self, "weights", MappingProxyType(weights))

    def order(self, models: list[str]) -> "BoundPolicy":
        """Bring the weights into the order of the application's models."""
        if set(self.weights) != set(models):
            raise ValueError(
                f"WeightedSplit has weights for {sorted(self.weights)}, but the application links "
                f"{sorted(models)}: name exactly those"
            )
        return BoundPolicy("weighted_split", [self.weights[name] for name in models], True)


@dataclass(frozen=True, slots=True)
class MajorityVote:
    """Asks every model and answers what most of them say; ties go to the model listed first.

    The confidence is the share of the models asked that agree.
    """

    asks_one: ClassVar[bool] = False

    def order(self, models: list[str]) -> "BoundPolicy":
        """Bring the policy into the order of the application's models."""
        return BoundPolicy("majority_vote", None, len(models) == 1)


Policy = WeightedSplit | MajorityVote


@dataclass(frozen=True, slots=True)
class BoundPolicy:
    """A policy, ready for the core."""

    kind: str
    value: Any
    asks_one: bool

    def to_core(self) -> tuple[str, Any]:
        """Return the policy's name and parameters."""
        return self.kind, self.value
