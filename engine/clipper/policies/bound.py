"""Policies as the core takes them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class BoundPolicy:
    """A policy, ready for the core."""

    kind: str
    value: Any
    asks_one: bool

    def to_core(self) -> tuple[str, Any]:
        """Return the policy's name and parameters."""
        return self.kind, self.value
