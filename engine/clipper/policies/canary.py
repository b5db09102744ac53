"""A new model on trial."""

from dataclasses import dataclass
from typing import ClassVar

from .bound import BoundPolicy
from .checks import check_range


@dataclass(frozen=True, slots=True)
class Canary:
    """Sends a share of the queries to a new model, and takes it back if that fails more often.

    Parameters
    ----------
    model : str
        The new one of the application's two models.
    share : float, default 0.05
        Of the queries, in [0, 1]. A query with a context always goes where its context goes.
    min_count : int, default 100
        Queries that each must have been asked before they are compared.
    z : float, default 4
        By how many standard errors the new model's share of errors and misses must exceed the old
        one's. The comparison is made at every failure: keep it well above that of a single test.

    Notes
    -----
    The pooled two-proportion z-test: Fleiss, Levin, Paik, "Statistical Methods for Rates and
    Proportions", 3rd edition 2003, chapter 3.
    """

    model: str
    share: float = 0.05
    min_count: int = 100
    z: float = 4.0
    asks_one: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range("Canary", "share", self.share, 0.0, 1.0)
        check_range("Canary", "min_count", self.min_count, 1.0, 1e15)
        check_range("Canary", "z", self.z, 0.0, 1e6, open_low=True)

    def order(self, models: list[str]) -> BoundPolicy:
        """Find the new one among the application's two models."""
        if len(models) != 2 or self.model not in models:
            raise ValueError(
                f"Canary({self.model!r}) is for applications of two models, one of them "
                f"{self.model!r}, but this one links {models}: name the old model and the new one"
            )
        value = {
            "model": models.index(self.model),
            "share": float(self.share),
            "min_count": float(self.min_count),
            "z": float(self.z),
        }
        return BoundPolicy("canary", value, True)
