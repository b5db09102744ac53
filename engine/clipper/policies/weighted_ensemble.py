"""All models, by weights that stay."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from .bound import BoundPolicy
from .checks import checked_weights, ordered
from .combining import CombineFunction, check_ensemble


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
    combine : callable, optional
        A function of yours that makes the answer instead: it gets a dict from model name to output
        of the models that answered, and returns an output. It runs in Python, once a row; the
        confidence is then the weighted share of the models asked that answered.
    fewest_under_load : int, optional
        Where queries wait so long for the models that they could miss their deadline, fewer are
        asked, down to so many: the most trusted. For models that share what they run on. All are
        always asked if not given.
    """

    weights: Mapping[str, float]
    takes_mean: bool = False
    combine: CombineFunction | None = None
    fewest_under_load: int | None = None
    asks_one: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", checked_weights("WeightedEnsemble", self.weights))
        check_ensemble(
            "WeightedEnsemble", self.combine, self.fewest_under_load, takes_mean=self.takes_mean
        )

    def order(self, models: list[str]) -> BoundPolicy:
        """Bring the weights into the order of the application's models."""
        weights = ordered("WeightedEnsemble", self.weights, models)
        value = {"weights": weights, "takes_mean": self.takes_mean}
        return BoundPolicy(
            "weighted_ensemble", value, len(models) == 1, self.combine, self.fewest_under_load
        )
