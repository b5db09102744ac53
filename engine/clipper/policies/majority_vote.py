"""What most models say."""

from dataclasses import dataclass
from typing import ClassVar

from .bound import BoundPolicy
from .combining import CombineFunction, check_ensemble


@dataclass(frozen=True, slots=True)
class MajorityVote:
    """Asks every model and answers what most of them say; ties go to the model listed first.

    The confidence is the share of the models asked that agree.

    Parameters
    ----------
    combine : callable, optional
        A function of yours that makes the answer instead: it gets a dict from model name to output
        of the models that answered, and returns an output. It runs in Python, once a row; the
        confidence is then the weighted share of the models asked that answered.
    fewest_under_load : int, optional
        Where queries wait so long for the models that they could miss their deadline, fewer are
        asked, down to so many: those listed first. For models that share what they run on. All are
        always asked if not given.
    """

    combine: CombineFunction | None = None
    fewest_under_load: int | None = None
    asks_one: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_ensemble("MajorityVote", self.combine, self.fewest_under_load)

    def order(self, models: list[str]) -> BoundPolicy:
        """Bring the policy into the order of the application's models."""
        return BoundPolicy(
            "majority_vote", None, len(models) == 1, self.combine, self.fewest_under_load
        )
