"""Policies as the core takes them."""

from dataclasses import dataclass
from typing import Any

from .combining import CombineFunction


@dataclass(frozen=True, slots=True)
class BoundPolicy:
    """A policy, ready for the core."""

    kind: str
    value: Any
    asks_one: bool
    combine: CombineFunction | None = None
    fewest_under_load: int | None = None

    def to_core(self) -> tuple[str, Any]:
        """Return the policy's name and parameters."""
        return self.kind, self.value
