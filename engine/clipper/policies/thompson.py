"""Asks each model as often as it is probably the best."""

from dataclasses import dataclass
from typing import ClassVar

from .bound import BoundPolicy
from .checks import failure_loss_to_core, memory_to_core


@dataclass(frozen=True, slots=True)
class Thompson:
    """Asks each model as often as it is probably the best.

    Parameters
    ----------
    memory : float or None, default 100
        Observations after which older ones fade; None: all count for ever.
    failure_loss : float or None, default 1
        What a model that was asked and gave no answer has cost, in [0, 1]; None: nothing, only
        feedback counts.

    Notes
    -----
    A loss in [0, 1] counts as that fraction of a failure in a Beta distribution.

    Source: Thompson, Biometrika 25, 1933; Agrawal and Goyal, COLT 2012; the memory: Gupta, Granmo,
    Agrawala, "Thompson Sampling for Dynamic Multi-Armed Bandits", ICMLA 2011.
    """

    memory: float | None = 100.0
    failure_loss: float | None = 1.0
    asks_one: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._value()

    def order(self, models: list[str]) -> BoundPolicy:
        """Bind the policy to an application's models."""
        return BoundPolicy("thompson", self._value(), True)

    def _value(self) -> dict[str, float]:
        return {
            "memory": memory_to_core("Thompson", self.memory),
            "failure_loss": failure_loss_to_core("Thompson", self.failure_loss),
        }
