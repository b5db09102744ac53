"""State that lasts: what an engine serves and what its policies learned, in SQLite or Redis."""

from .engine_state import EngineState, Restored, open_state
from .store import Changes, Durability, Segment, StateStore

__all__ = [
    "Changes",
    "Durability",
    "EngineState",
    "Restored",
    "Segment",
    "StateStore",
    "open_state",
]
