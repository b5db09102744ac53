"""What a store of an engine's state can do, and how what it holds is sealed."""

import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Durability = Literal["process", "power", "memory"]

_SEAL_BYTES = 4


@dataclass(frozen=True, slots=True)
class Segment:
    """Entries of one application's journal, packed as the core packs them.

    Attributes
    ----------
    application : int
    first, last : int
        Numbers of the first and the last entry.
    entries : bytes
    """

    application: int
    first: int
    last: int
    entries: bytes


@dataclass(slots=True)
class Changes:
    """What is written at once: all of it, or nothing.

    Attributes
    ----------
    segments : list of Segment
        Of the journal, new at its end.
    states : dict from int to dict from int to bytes
        Of an application's contexts, by the contexts' hashes as signed integers.
    own : dict from int to bytes
        The applications' own states.
    covered : dict from int to int
        Entries of an application's journal up to this one are no longer needed.
    last_entry : int or None
        No state has a later entry in it than this one.
    """

    segments: list[Segment] = field(default_factory=list[Segment])
    states: Mapping[int, Mapping[int, bytes]] = field(default_factory=dict[int, dict[int, bytes]])
    own: dict[int, bytes] = field(default_factory=dict[int, bytes])
    covered: dict[int, int] = field(default_factory=dict[int, int])
    last_entry: int | None = None

    @property
    def has_states(self) -> bool:
        """Whether more than the journal changes."""
        return bool(self.own or self.covered or any(self.states.values()))


class StateStore(ABC):
    """Where an engine's state lasts. One thread at a time.

    Methods raise :class:`clipper.StateError` with the reason when the store cannot be reached,
    read or written; what was there before is then as it was.

    Attributes
    ----------
    name : str
        Where it is, for people.
    damaged : list of str
        What was found damaged and set aside, for people.
    heartbeat_seconds : float or None
        How often :meth:`heartbeat` must be called.
    reads_while_failing : bool
        Whether it may be read, quickly, while it cannot be written.
    """

    name: str = ""
    heartbeat_seconds: float | None = None
    reads_while_failing: bool = False

    def __init__(self) -> None:
        self.damaged: list[str] = []

    @abstractmethod
    def write(self, changes: Changes) -> None:
        """Write changes; they last, as far as was asked for, when this returns."""

    @abstractmethod
    def read_states(self, application: int, contexts: Sequence[int]) -> dict[int, bytes]:
        """Return the states of those contexts that are known."""

    @abstractmethod
    def read_own(self, application: int) -> bytes | None:
        """Return the application's own state."""

    @abstractmethod
    def read_segments(self, application: int) -> Iterator[Segment]:
        """Return an application's journal, in its order."""

    @abstractmethod
    def last_entry(self) -> int:
        """Return the number of the last entry that any journal or state has had in it."""

    @abstractmethod
    def documents(self, kind: str) -> dict[str, Any]:
        """Return all documents of a kind, by name."""

    @abstractmethod
    def put_document(self, kind: str, name: str, value: Any) -> None:
        """Keep what JSON can hold under a name, instead of what was there; None: nothing."""

    @abstractmethod
    def heartbeat(self) -> None:
        """Show that its engine lives."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it; more than once does nothing."""


def seal(data: bytes) -> bytes:
    """Put a check sum before data."""
    return zlib.crc32(data).to_bytes(_SEAL_BYTES, "little") + data


def unseal(sealed: object) -> bytes | None:
    """Take it off again; None: the data are not what they were."""
    if not isinstance(sealed, bytes):  # SQLite keeps anything in any column
        return None
    data = sealed[_SEAL_BYTES:]
    is_whole = sealed[:_SEAL_BYTES] == zlib.crc32(data).to_bytes(_SEAL_BYTES, "little")
    return data if is_whole else None


def to_json(value: Any) -> str:
    """Write a document."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
