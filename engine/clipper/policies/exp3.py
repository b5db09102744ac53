"""Asks one model, drawn by weights that fall with the losses that it causes."""

from dataclasses import dataclass
from typing import ClassVar

from .bound import BoundPolicy
from .checks import check_range, failure_loss_to_core


@dataclass(frozen=True, slots=True)
class Exp3:
    """Asks one model, drawn by weights that fall with the losses that it causes.

    Parameters
    ----------
    eta : float, default 0.05
        How fast weights fall, above 0.
    gamma : float, default 0.05
        Share of the queries that go to any model, in [0, 1]; it keeps all of them alive.
    floor : float, default 0.01
        No weight falls below this share of the largest other one, in (0, 0.5]: the smaller, the
        longer the way back of a model that has recovered.
    failure_loss : float or None, default 1
        What a model that was asked and gave no answer has cost, in [0, 1]; None: nothing, only
        feedback counts.

    Notes
    -----
    Source: Auer, Cesa-Bianchi, Freund, Schapire, "The Nonstochastic Multiarmed Bandit Problem",
    SIAM J. Comput. 32, 2002; Crankshaw et al., "Clipper", NSDI 2017.
    """

    eta: float = 0.05
    gamma: float = 0.05
    floor: float = 0.01
    failure_loss: float | None = 1.0
    asks_one: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range("Exp3", "eta", self.eta, 0.0, 1e6, open_low=True)
        check_range("Exp3", "gamma", self.gamma, 0.0, 1.0)
        check_range("Exp3", "floor", self.floor, 1e-300, 0.5)
        self._value()

    def order(self, models: list[str]) -> BoundPolicy:
        """Bind the policy to an application's models."""
        return BoundPolicy("exp3", self._value(), True)

    def _value(self) -> dict[str, float]:
        return {
            "eta": float(self.eta),
            "gamma": float(self.gamma),
            "floor": float(self.floor),
            "failure_loss": failure_loss_to_core("Exp3", self.failure_loss),
        }
