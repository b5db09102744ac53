"""The words of ``docs/worker-protocol.md``: messages over the socket, and the control segment.

Knows neither NumPy nor clipper. Both ends use it.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from typing import Any, NamedTuple

VERSION = 1
MAGIC = 0x57504C43  # "CLPW"

HELLO = 1
LOAD = 2
LOADED = 3
MAP = 4
READY = 5
FAILED = 6

KINDS = ("factory", "file", "pickle")
ROW_KINDS = ("array", "bytes", "text")

#: Of one message. Larger things travel as memfds.
MOST_BYTES = 1 << 16
_MOST_DESCRIPTORS = 32
_HEADER = struct.Struct("<IHHII")

# The control segment.
CONTROL_MAGIC = b"CLPCTRL\0"
POSTED_AT = 64
CLOSING_AT = 72
FINISHED_AT = 128
RUNNING_AT = 136
SLOTS_AT = 192
SLOT_BYTES = 640
INPUTS_AT = 64
REPLY_AT = 576
ROWS, STAGING, COPY = 0, 1, 2
OUTPUTS, MODEL_ERROR = 0, 1


class ProtocolError(Exception):
    """The other end said something that it may not say."""


class Message(NamedTuple):
    """One message and the descriptors that came with it, which are the receiver's to close."""

    kind: int
    payload: bytes
    descriptors: list[int]


class Tensor(NamedTuple):
    """One tensor of a row, as the protocol describes it."""

    name: str
    dtype: str
    kind: str
    ragged: bool
    shape: tuple[int, ...]  # without the ragged axis


class Rows(NamedTuple):
    """What a row is made of."""

    named: bool
    tensors: list[Tensor]


class Load(NamedTuple):
    """What LOAD says."""

    kind: str
    reference: str
    device: str
    may_unpickle: bool
    has_example: bool
    input: Rows | None
    output: Rows | None
    paths: list[str]


class Loaded(NamedTuple):
    """What LOADED says: what is known of the model."""

    input: Rows | None
    output: Rows | None
    has_example: bool


class Place(NamedTuple):
    """Where an output column lies, and how many items it holds."""

    data_at: int
    offsets_at: int
    items: int


class Map(NamedTuple):
    """What MAP says."""

    slots: int
    has_copies: bool
    sizes: list[int]
    rows: int
    places: list[Place]
    text_at: int
    text_bytes: int
    input: Rows
    output: Rows


class Failure(NamedTuple):
    """What FAILED says."""

    step: str
    error: str
    traceback: str


# ---- the socket ------------------------------------------------------------------------------


def send(connection: socket.socket, kind: int, payload: bytes = b"", descriptors: Any = ()) -> None:
    """Send one message."""
    if len(payload) > MOST_BYTES:
        raise ProtocolError(f"a message of {len(payload)} bytes is longer than {MOST_BYTES}")
    header = _HEADER.pack(MAGIC, VERSION, kind, len(payload), 0)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    connection.sendmsg([header + payload], rights if len(descriptors) else [])


def receive(connection: socket.socket) -> Message | None:
    """Receive one message; None: the other end has closed.

    Raises ProtocolError if it is none.
    """
    room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
    close_on_exec = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
    data, ancillary, flags, _ = connection.recvmsg(_HEADER.size + MOST_BYTES, room, close_on_exec)
    descriptors = array.array("i")
    for level, what, content in ancillary:
        if level == socket.SOL_SOCKET and what == socket.SCM_RIGHTS:
            whole = len(content) - len(content) % descriptors.itemsize
            descriptors.frombytes(content[:whole])
    if not data:
        return None
    try:
        return Message(*_checked(data, flags), list(descriptors))
    except ProtocolError:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _checked(data: bytes, flags: int) -> tuple[int, bytes]:
    if len(data) < _HEADER.size or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise ProtocolError(f"a message of {len(data)} bytes is not whole")
    magic, version, kind, length, _ = _HEADER.unpack_from(data)
    if magic != MAGIC or length != len(data) - _HEADER.size:
        raise ProtocolError(f"got {data[:24]!r}, which is no message of Clipper's worker protocol")
    if version != VERSION:
        raise ProtocolError(f"the other end speaks version {version}, this one {VERSION}")
    return kind, data[_HEADER.size :]


# ---- payloads --------------------------------------------------------------------------------


class Writer:
    """Puts values one after the other."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def number(self, form: str, *values: int) -> Writer:
        """Append numbers, as ``struct`` names their form."""
        self._parts.append(struct.pack("<" + form, *values))
        return self

    def text(self, value: str) -> Writer:
        """Append a string: its length in bytes, then UTF-8."""
        encoded = value.encode("utf-8", "replace")
        self._parts += [struct.pack("<I", len(encoded)), encoded]
        return self

    def rows(self, rows: Rows | None) -> Writer:
        """Append what a row is made of; no tensors: not known."""
        if rows is None:
            return self.number("BH", 0, 0)
        self.number("BH", rows.named, len(rows.tensors))
        for tensor in rows.tensors:
            self.text(tensor.name).text(tensor.dtype)
            self.number("BBB", ROW_KINDS.index(tensor.kind), tensor.ragged, len(tensor.shape))
            self.number(f"{len(tensor.shape)}q", *tensor.shape)
        return self

    def finish(self) -> bytes:
        """Return all of it."""
        return b"".join(self._parts)


class Reader:
    """Takes values one after the other. Raises ProtocolError where there are none."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    def number(self, form: str) -> Any:
        """Take one number."""
        return self.numbers(form)[0]

    def numbers(self, form: str) -> tuple[Any, ...]:
        """Take numbers."""
        try:
            values = struct.unpack_from("<" + form, self._payload, self._at)
        except struct.error as error:
            raise ProtocolError(f"a message ends too early: {error}") from None
        self._at += struct.calcsize("<" + form)
        return values

    def text(self) -> str:
        """Take a string."""
        length = self.number("I")
        encoded = self._payload[self._at : self._at + length]
        if len(encoded) != length:
            raise ProtocolError("a message ends in mid-string")
        self._at += length
        return encoded.decode("utf-8", "replace")

    def rows(self) -> Rows | None:
        """Take what a row is made of."""
        named, count = self.numbers("BH")
        tensors = []
        for _ in range(count):
            name, dtype = self.text(), self.text()
            kind, ragged, dimensions = self.numbers("BBB")
            if kind >= len(ROW_KINDS):
                raise ProtocolError(f"a tensor is of kind {kind}, which there is not")
            shape = self.numbers(f"{dimensions}q")
            tensors.append(Tensor(name, dtype, ROW_KINDS[kind], bool(ragged), shape))
        return Rows(bool(named), tensors) if tensors else None


def pack_hello(runtime: str) -> bytes:
    """Say who the worker is."""
    return Writer().number("HHI", VERSION, VERSION, os.getpid()).text(runtime).finish()


def unpack_hello(payload: bytes) -> tuple[int, str]:
    """Return process id and runtime."""
    reader = Reader(payload)
    least, most, pid = reader.numbers("HHI")
    if not least <= VERSION <= most:
        raise ProtocolError(f"the worker speaks versions {least} to {most}, the engine {VERSION}")
    return pid, reader.text()


def pack_load(load: Load) -> bytes:
    """Say what model to load."""
    writer = Writer().number("B", KINDS.index(load.kind)).text(load.reference).text(load.device)
    writer.number("BB", load.may_unpickle, load.has_example).rows(load.input).rows(load.output)
    writer.number("H", len(load.paths))
    for path in load.paths:
        writer.text(path)
    return writer.finish()


def unpack_load(payload: bytes) -> Load:
    """Return what model to load."""
    reader = Reader(payload)
    kind = reader.number("B")
    if kind >= len(KINDS):
        raise ProtocolError(f"a model is of kind {kind}, which there is not")
    reference, device = reader.text(), reader.text()
    may_unpickle, has_example = reader.numbers("BB")
    input, output = reader.rows(), reader.rows()
    paths = [reader.text() for _ in range(reader.number("H"))]
    return Load(KINDS[kind], reference, device, bool(may_unpickle), bool(has_example), input,
                output, paths)  # fmt: skip


def pack_loaded(loaded: Loaded) -> bytes:
    """Say what is known of the model."""
    writer = Writer().rows(loaded.input).rows(loaded.output)
    return writer.number("B", loaded.has_example).finish()


def unpack_loaded(payload: bytes) -> Loaded:
    """Return what is known of the model."""
    reader = Reader(payload)
    input, output = reader.rows(), reader.rows()
    return Loaded(input, output, bool(reader.number("B")))


def pack_map(layout: Map) -> bytes:
    """Say what the descriptors are."""
    writer = Writer().number("IBH", layout.slots, layout.has_copies, len(layout.sizes))
    writer.number(f"{len(layout.sizes)}Q", *layout.sizes)
    writer.number("IH", layout.rows, len(layout.places))
    for place in layout.places:
        writer.number("QQQ", *place)
    writer.number("QQ", layout.text_at, layout.text_bytes)
    return writer.rows(layout.input).rows(layout.output).finish()


def unpack_map(payload: bytes) -> Map:
    """Return what the descriptors are."""
    reader = Reader(payload)
    slots, has_copies, count = reader.numbers("IBH")
    sizes = list(reader.numbers(f"{count}Q"))
    rows, count = reader.numbers("IH")
    places = [Place(*reader.numbers("QQQ")) for _ in range(count)]
    text_at, text_bytes = reader.numbers("QQ")
    input, output = reader.rows(), reader.rows()
    if input is None or output is None:
        raise ProtocolError("MAP names no inputs or no outputs")
    return Map(slots, bool(has_copies), sizes, rows, places, text_at, text_bytes, input, output)


def pack_failure(failure: Failure) -> bytes:
    """Say why the worker ends."""
    third = MOST_BYTES // 8  # UTF-8 takes up to four bytes a character
    return Writer().text(failure.step[:200]).text(failure.error[:third]).text(
        failure.traceback[-third // 2 :]
    ).finish()  # fmt: skip


def unpack_failure(payload: bytes) -> Failure:
    """Return why the worker ends."""
    reader = Reader(payload)
    return Failure(reader.text(), reader.text(), reader.text())
