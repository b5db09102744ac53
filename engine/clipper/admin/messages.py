"""Messages between the ``clipper`` command and an engine: a length of four bytes, then JSON.

A request is ``{"clipper": 1, "do": NAME, "with": {…}}``. Its answer has ``"value"``, or ``"error"``
with ``"type"`` and ``"text"``; what is followed comes before that, as any number of messages with
``"part"``.
"""

import json
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, TypeGuard

from clipper.errors import ClipperError

#: Of the messages; another one is refused.
VERSION = 1
#: Longest message, in bytes.
MOST_BYTES = 64 << 20
#: Seconds for the rest of a message that has begun.
REST_SECONDS = 30.0

_LENGTH = struct.Struct(">I")


class MessageError(ClipperError):
    """Bytes that are no message, or one of another version."""

    status = 400


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether this is a JSON object."""
    return isinstance(value, dict)


def pack(message: Mapping[str, Any]) -> bytes:
    """Write a message as bytes.

    Raises
    ------
    MessageError
        If it is too long.
    """
    body = json.dumps({"clipper": VERSION, **message}, allow_nan=False).encode()
    if len(body) > MOST_BYTES:
        raise MessageError(
            f"the message has {len(body)} bytes, and {MOST_BYTES} are the most: ask for less"
        )
    return _LENGTH.pack(len(body)) + body


def send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """Send a message; as ``pack``, and OSError where the peer is gone or does not read."""
    connection.sendall(pack(message))


def receive(connection: socket.socket, first_seconds: float | None) -> dict[str, Any] | None:
    """Receive a message; None if the peer has closed the connection between messages.

    Parameters
    ----------
    first_seconds : float, optional
        How long to wait for it to begin; for ever if not given.

    Raises
    ------
    MessageError
        If what comes is no message of this version.
    TimeoutError
        If none begins, or one that has begun does not end.
    """
    connection.settimeout(first_seconds)
    first = connection.recv(1)
    if not first:
        return None
    until = time.monotonic() + REST_SECONDS
    length: int = _LENGTH.unpack(first + _rest(connection, _LENGTH.size - 1, until))[0]
    if not 0 < length <= MOST_BYTES:
        raise MessageError(
            f"a message of {length} bytes was announced: they have 1 to {MOST_BYTES}"
        )
    return unpack(_rest(connection, length, until))


def unpack(body: bytes) -> dict[str, Any]:
    """Read a message's JSON.

    Raises
    ------
    MessageError
        If it is none, or of another version.
    """
    try:
        message: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"what came is no JSON: {error}") from None
    if not is_object(message):
        raise MessageError(f"a message is an object, not {type(message).__name__}")
    if message.get("clipper") != VERSION:
        raise MessageError(
            f"the message is of version {message.get('clipper')!r}, but {VERSION} is spoken here: "
            "use the command and the engine of one release"
        )
    return message


def _rest(connection: socket.socket, size: int, until: float) -> bytes:
    """Receive exactly so much. Memory is taken as it comes, not as it was announced."""
    pieces: list[bytes] = []
    while size:
        connection.settimeout(max(until - time.monotonic(), 1e-3))
        piece = connection.recv(min(size, 1 << 18))
        if not piece:
            raise MessageError("the connection ended in the middle of a message")
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
