"""One row as bytes, and the first run of a model with it."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from .columns import Column, RowColumns, describe_outputs
from .protocol import ProtocolError, Rows

_LENGTH = struct.Struct("<Q")


def pack_row(rows: Rows, row: Any) -> bytes:
    """Put a row's tensors one after the other, each after its length in bytes.

    Parameters
    ----------
    rows : Rows
    row : array_like, bytes, str, or dict of those
    """
    parts = []
    for column in RowColumns(rows).columns:
        value = row[column.name] if rows.named else row
        if isinstance(value, str):
            data = value.encode()
        elif isinstance(value, (bytes, bytearray, memoryview)):
            data = bytes(value)
        else:
            data = np.ascontiguousarray(value, column.dtype).tobytes()
        parts += [_LENGTH.pack(len(data)), data]
    return b"".join(parts)


def unpack_row(rows: Rows, packed: bytes) -> list[tuple[Column, bytes]]:
    """Return each column and its bytes of the row. Raises ProtocolError if it is none."""
    found, at = [], 0
    for column in RowColumns(rows).columns:
        if at + _LENGTH.size > len(packed):
            raise ProtocolError("an example row ends too early")
        (length,) = _LENGTH.unpack_from(packed, at)
        at += _LENGTH.size
        data = packed[at : at + length]
        at += length
        wrong = length % column.item_bytes if column.ragged else length - column.item_bytes
        if len(data) != length or wrong:
            raise ProtocolError(f"an example has {length} bytes for {column}")
        found.append((column, data))
    return found


def run_once(call: Any, input: Rows, output: Rows | None, packed: bytes) -> Rows:
    """Run a batch of one row, check what it returns, and describe it."""
    batch = {}
    for column, data in unpack_row(input, packed):
        offsets = np.array([0, len(data) // column.item_bytes], np.int64).tobytes()
        at = -(-len(data) // 8) * 8
        memory = data + bytes(at - len(data)) + offsets
        batch[column.name] = column.view(memory, 0, at, 1)
    outputs = call(**batch) if input.named else call(next(iter(batch.values())))
    if output is None:
        return describe_outputs(outputs)
    columns = RowColumns(output)
    for column in columns.columns:
        value = columns.pick(outputs, column) if output.named else outputs
        if column.ragged:
            column.joined(value, 1)
        else:
            column.checked(value, 1)
    return output
