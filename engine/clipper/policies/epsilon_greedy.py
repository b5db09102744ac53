"""Asks the model with the least mean loss, and now and then any of them."""

from dataclasses import dataclass
from typing import ClassVar

from .bound import BoundPolicy
from .checks import check_range, failure_loss_to_core, memory_to_core


@dataclass(frozen=True, slots=True)
class EpsilonGreedy:
    """Asks the model with the least mean loss, and now and then any of them.

    Parameters
    ----------
    epsilon : float, default 0.1
        Probability of asking any model, in [0, 1].
    memory : float or None, default 200
        Observations after which older ones fade; None: all count for ever.
    failure_loss : float or None, default 1
        What a model that was asked and gave no answer has cost, in [0, 1]; None: nothing, only
        feedback counts.

    Notes
    -----
    Source: Sutton and Barto, "Reinforcement Learning", 2nd edition 2018, sections 2.2 and 2.5.
    """

    epsilon: float = 0.1
    memory: float | None = 200.0
    failure_loss: float | None = 1.0
    asks_one: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range("EpsilonGreedy", "epsilon", self.epsilon, 0.0, 1.0)
        self._value()

    def order(self, models: list[str]) -> BoundPolicy:
        """Bind the policy to an application's models."""
        return BoundPolicy("epsilon_greedy", self._value(), True)

    def _value(self) -> dict[str, float]:
        return {
            "epsilon": float(self.epsilon),
            "memory": memory_to_core("EpsilonGreedy", self.memory),
            "failure_loss": failure_loss_to_core("EpsilonGreedy", self.failure_loss),
        }
