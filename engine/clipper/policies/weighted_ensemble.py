"""All models, by weights that stay."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from .bound import BoundPolicy
from .checks import checked_weights, ordered


@dataclass(frozen=True, slots=True)
class WeightedEnsemble:
    """Asks every model that has a weight and combines their answers by these weights.

    Parameters
    ----------
    weights : mapping of str to float
        Model name → weight, at least 0; they need not add up to 1.
    takes_mean : bool, default False
        Whether the answer is the weighted mean of floating-point outputs; else it is a vote, in
        which outputs agree if their bytes do.
    """

    weights: Mapping[str, float]
    takes_mean: bool = False
    asks_one: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", checked_weights("WeightedEnsemble", self.weights))

    def order(self, models: list[str]) -> BoundPolicy:
        """Bring the weights into the order of the application's models."""
        weights = ordered("WeightedEnsemble", self.weights, models)
        value = {"weights": weights, "takes_mean": self.takes_mean}
        return BoundPolicy("weighted_ensemble", value, len(models) == 1)
