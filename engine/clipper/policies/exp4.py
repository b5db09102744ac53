"""All models, weighed by what they have got right."""

from dataclasses import dataclass
from typing import ClassVar

from .bound import BoundPolicy
from .checks import check_range, failure_loss_to_core
from .combining import CombineFunction, check_ensemble


@dataclass(frozen=True, slots=True)
class Exp4:
    """Asks all models and weighs their answers; weights fall with the losses that they cause.

    Parameters
    ----------
    eta : float, default 0.1
        How fast weights fall, above 0.
    floor : float, default 0.01
        No weight falls below this share of the largest other one, in (0, 0.5].
    takes_mean : bool, default False
        Whether the answer is the weighted mean of floating-point outputs; else it is a vote, in
        which outputs agree if their bytes do.
    failure_loss : float or None, default 1
        What a model that was asked and gave no answer has cost, in [0, 1]; None: nothing, only
        feedback counts.
    combine : callable, optional
        A function of yours that makes the answer instead: it gets a dict from model name to output
        of the models that answered, and returns an output. It runs in Python, once a row; the
        confidence is then the weighted share of the models asked that answered.
    fewest_under_load : int, optional
        Where queries wait so long for the models that they could miss their deadline, fewer are
        asked, down to so many: the most trusted. For models that share what they run on. All are
        always asked if not given.

    Notes
    -----
    The confidence is the weighted share of the models asked that agree, in [0, 1]; of a mean, of
    those whose largest number is where the mean has its largest. A model that is missing costs
    confidence.

    Source: Auer, Cesa-Bianchi, Freund, Schapire, SIAM J. Comput. 32, 2002; Crankshaw et al.,
    "Clipper", NSDI 2017.
    """

    eta: float = 0.1
    floor: float = 0.01
    takes_mean: bool = False
    failure_loss: float | None = 1.0
    combine: CombineFunction | None = None
    fewest_under_load: int | None = None
    asks_one: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range("Exp4", "eta", self.eta, 0.0, 1e6, open_low=True)
        check_range("Exp4", "floor", self.floor, 1e-300, 0.5)
        failure_loss_to_core("Exp4", self.failure_loss)
        check_ensemble("Exp4", self.combine, self.fewest_under_load, takes_mean=self.takes_mean)

    def order(self, models: list[str]) -> BoundPolicy:
        """Bind the policy to an application's models."""
        value = {
            "eta": float(self.eta),
            "floor": float(self.floor),
            "takes_mean": self.takes_mean,
            "failure_loss": failure_loss_to_core("Exp4", self.failure_loss),
        }
        return BoundPolicy("exp4", value, len(models) == 1, self.combine, self.fewest_under_load)
