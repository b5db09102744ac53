"""What most models say."""

from dataclasses import dataclass
from typing import ClassVar

from .bound import BoundPolicy


@dataclass(frozen=True, slots=True)
class MajorityVote:
    """Asks every model and answers what most of them say; ties go to the model listed first.

    The confidence is the share of the models asked that agree.
    """

    asks_one: ClassVar[bool] = False

    def order(self, models: list[str]) -> BoundPolicy:
        """Bring the policy into the order of the application's models."""
        return BoundPolicy("majority_vote", None, len(models) == 1)
