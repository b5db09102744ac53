"""State in a Redis server, for engines that move between machines."""

import contextlib
import importlib
import json
import logging
import os
import socket
import struct
import uuid
from collections.abc import Generator, Iterator, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from clipper.errors import DataDirectoryInUseError, StateError

from .store import Changes, Durability, Segment, StateStore, seal, to_json, unseal

_log = logging.getLogger("clipper")
_LEASE_SECONDS = 10
_PAGE = 100  # segments that are read at once
_CONTEXT = struct.Struct("<q")
_FIRST = struct.Struct("<Q")


class RedisStore(StateStore):
    """Keys under ``clipper:<name>:``, which one engine holds at a time by a lease.

    Parameters
    ----------
    url : str
        ``redis://host:port/0``, ``rediss://``, or ``unix:///path``. ``?name=`` says whose state it
        is, "default" if not given: engines with different names share a server.
    durability : {"process", "power", "memory"}
        With "power" the server must write every command to its disk.

    Raises
    ------
    DataDirectoryInUseError
        If another living engine has this name.
    StateError
        If the server cannot be reached, or does not keep what it is told as asked.
    """

    heartbeat_seconds: float | None = _LEASE_SECONDS / 4

    def __init__(self, url: str, durability: Durability) -> None:
        super().__init__()
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        name = options.pop("name", "default")
        query = urlencode(options)
        base = url.partition("?")[0] + (f"?{query}" if query else "")
        shown = parts.netloc.rpartition("@")[2] + parts.path
        self.name: str = f"{parts.scheme}://{shown} (name {name!r})"
        self._prefix = f"clipper:{name}:"
        try:
            self._redis: Any = importlib.import_module("redis")
        except ModuleNotFoundError:
            raise StateError(
                "data='redis://...' needs the package redis: pip install clipper[redis]"
            ) from None
        self._client: Any = self._redis.Redis.from_url(
            base, socket_timeout=2.0, socket_connect_timeout=2.0
        )
        self._token = f"{uuid.uuid4().hex}:{socket.gethostname()}:{os.getpid()}".encode()
        self._is_open = True
        with self._as_state_error():
            self._check_durability(durability)
        self.heartbeat()

    def _check_durability(self, durability: Durability) -> None:
        if durability == "power":
            found = self._client.config_get("append*")
            if (found.get("appendonly"), found.get("appendfsync")) != ("yes", "always"):
                raise StateError(
                    "durability='power' needs a Redis server with appendonly yes and appendfsync "
                    f"always, but this one has {found.get('appendonly')} and "
                    f"{found.get('appendfsync')}: configure it so, or ask for 'process'"
                )

    def heartbeat(self) -> None:
        """Take the lease, or prolong it."""
        with self._as_state_error(), self._client.pipeline() as pipe:
            self._check_owner(pipe)
            pipe.multi()
            pipe.set(self._key("owner"), self._token, ex=_LEASE_SECONDS)
            pipe.execute()

    def _check_owner(self, pipe: Any) -> None:
        pipe.watch(self._key("owner"))
        owner: bytes | None = pipe.get(self._key("owner"))
        if owner is not None and owner != self._token:
            _, host, pid = owner.decode().split(":")
            raise DataDirectoryInUseError(
                f"the state in {self.name} is in use by an engine of process {pid} on {host}: "
                "close that engine, or give each a name, redis://...?name=...",
                int(pid),
            )

    def _key(self, *parts: object) -> str:
        return self._prefix + ":".join(map(str, parts))

    @contextlib.contextmanager
    def _as_state_error(self) -> Generator[None, None, None]:
        try:
            yield
        except self._redis.RedisError as error:
            raise StateError(f"the state in {self.name} cannot be used: {error}") from error

    def write(self, changes: Changes) -> None:
        """Write changes in one transaction, which fails if the lease is another's."""
        with self._as_state_error(), self._client.pipeline() as pipe:
            self._check_owner(pipe)
            pipe.multi()
            pipe.set(self._key("owner"), self._token, ex=_LEASE_SECONDS)
            for segment in changes.segments:
                # By number: one that is written again, as its first answer was lost, is the same.
                key = self._key("journal", segment.application)
                pipe.zremrangebyscore(key, segment.last, segment.last)
                data = seal(_FIRST.pack(segment.last) + segment.entries)
                pipe.zadd(key, {data: segment.last})
            for application, states in changes.states.items():
                if states:
                    pipe.hset(self._key("states", application), mapping={
                        _CONTEXT.pack(context): seal(state) for context, state in states.items()
                    })  # fmt: skip
            for application, state in changes.own.items():
                pipe.hset(self._key("own"), str(application), seal(state))
            for application, last in changes.covered.items():
                pipe.zremrangebyscore(self._key("journal", application), 0, last)
            last = max([changes.last_entry or 0, *(s.last for s in changes.segments)])
            if last:
                pipe.set(self._key("last"), last)
            pipe.execute()

    def read_states(self, application: int, contexts: Sequence[int]) -> dict[int, bytes]:
        """Return the states of those contexts that are known."""
        if not contexts:
            return {}
        key = self._key("states", application)
        with self._as_state_error():
            rows = self._client.hmget(key, [_CONTEXT.pack(context) for context in contexts])
        found: dict[int, bytes] = {}
        for context, sealed in zip(contexts, rows, strict=True):
            if sealed is not None and (state := unseal(sealed)) is not None:
                found[context] = state
            elif sealed is not None:
                self._set_aside(key, _CONTEXT.pack(context), sealed)
        return found

    def read_own(self, application: int) -> bytes | None:
        """Return the application's own state."""
        with self._as_state_error():
            sealed = self._client.hget(self._key("own"), str(application))
        if sealed is None:
            return None
        state = unseal(sealed)
        if state is None:
            self._set_aside(self._key("own"), str(application).encode(), sealed)
        return state

    def _set_aside(self, key: str, field: bytes, sealed: bytes) -> None:
        text = f"{key}, {field!r} is damaged: it was moved to {self._key('damaged')}"
        self.damaged.append(text)
        _log.error("state in %s: %s", self.name, text)
        with self._as_state_error(), self._client.pipeline() as pipe:
            pipe.hset(self._key("damaged"), f"{key}:{field.hex()}", sealed)
            pipe.hdel(key, field)
            pipe.execute()

    def read_segments(self, application: int) -> Iterator[Segment]:
        """Return an application's journal."""
        key, after = self._key("journal", application), 0
        while True:
            with self._as_state_error():
                rows = self._client.zrange(
                    key, f"({after}", "+inf", byscore=True, withscores=True, offset=0, num=_PAGE
                )
            for sealed, score in rows:
                after = int(score)
                data = unseal(sealed)
                if data is None:
                    self.damaged.append(f"{key} at {after} is damaged: it stays there unused")
                    _log.error("state in %s: %s", self.name, self.damaged[-1])
                else:
                    entries = data[_FIRST.size :]
                    (first,) = _FIRST.unpack_from(entries)
                    yield Segment(application, first, after, entries)
            if len(rows) < _PAGE:
                return

    def last_entry(self) -> int:
        """Return the number of the last entry."""
        with self._as_state_error():
            return int(self._client.get(self._key("last")) or 0)

    def documents(self, kind: str) -> dict[str, Any]:
        """Return all documents of a kind, by name."""
        with self._as_state_error():
            found: dict[bytes, bytes] = self._client.hgetall(self._key("documents", kind))
        return {name.decode(): json.loads(value) for name, value in sorted(found.items())}

    def put_document(self, kind: str, name: str, value: Any) -> None:
        """Keep a document; None: none."""
        key = self._key("documents", kind)
        with self._as_state_error(), self._client.pipeline() as pipe:
            self._check_owner(pipe)
            pipe.multi()
            if value is None:
                pipe.hdel(key, name)
            else:
                pipe.hset(key, name, to_json(value))
            pipe.execute()

    def close(self) -> None:
        """Give the lease back."""
        if not self._is_open:
            return
        self._is_open = False
        gone = contextlib.suppress(self._redis.RedisError, StateError)
        with gone, self._client.pipeline() as pipe:
            self._check_owner(pipe)
            pipe.multi()
            pipe.delete(self._key("owner"))
            pipe.execute()
        self._client.close()
