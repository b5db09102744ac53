"""One model a query, by fixed probabilities."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from .bound import BoundPolicy
from .checks import checked_weights, ordered


@dataclass(frozen=True, slots=True)
class WeightedSplit:
    """Asks one model for each query, chosen with fixed probabilities. For A/B tests.

    Parameters
    ----------
    weights : mapping of str to float
        Model name → weight, at least 0; the weights need not add up to 1. A query with a context
        always goes where its context goes.
    """

    weights: Mapping[str, float]
    asks_one: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", checked_weights("WeightedSplit", self.weights))

    def order(self, models: list[str]) -> BoundPolicy:
        """Bring the weights into the order of the application's models."""
        return BoundPolicy("weighted_split", ordered("WeightedSplit", self.weights, models), True)
