"""Asks the model that may be the best, going by an upper confidence bound."""

from dataclasses import dataclass
from typing import ClassVar

from .bound import BoundPolicy
from .checks import failure_loss_to_core, memory_to_core


@dataclass(frozen=True, slots=True)
class Ucb1:
    """Asks the model that may be the best, going by an upper confidence bound.

    Parameters
    ----------
    memory : float or None, default None
        Observations after which older ones fade; None: all count for ever.
    failure_loss : float or None, default 1
        What a model that was asked and gave no answer has cost, in [0, 1]; None: nothing, only
        feedback counts.

    Notes
    -----
    For models that do not change: the way back of one that has recovered is long.

    Source: Auer, Cesa-Bianchi, Fischer, "Finite-time Analysis of the Multiarmed Bandit Problem",
    Machine Learning 47, 2002.
    """

    memory: float | None = None
    failure_loss: float | None = 1.0
    asks_one: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._value()

    def order(self, models: list[str]) -> BoundPolicy:
        """Bind the policy to an application's models."""
        return BoundPolicy("ucb1", self._value(), True)

    def _value(self) -> dict[str, float]:
        return {
            "memory": memory_to_core("Ucb1", self.memory),
            "failure_loss": failure_loss_to_core("Ucb1", self.failure_loss),
        }
