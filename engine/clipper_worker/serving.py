"""The worker's life once its model is loaded: batches out of shared memory, outputs into it."""

from __future__ import annotations

import mmap
import os
import struct
import traceback
from typing import Any

from .columns import RowColumns
from .protocol import (
    CLOSING_AT,
    CONTROL_MAGIC,
    COPY,
    FINISHED_AT,
    INPUTS_AT,
    MODEL_ERROR,
    OUTPUTS,
    POSTED_AT,
    REPLY_AT,
    RUNNING_AT,
    SLOT_BYTES,
    SLOTS_AT,
    VERSION,
    Map,
    ProtocolError,
)

_RING = struct.pack("=Q", 1)
_LOW = 0xFFFFFFFF


class Session:
    """What was mapped for one engine, and the loop over its batches.

    Parameters
    ----------
    layout : Map
    descriptors : list of int
        Those that came with MAP, in its order; closed here where they were mapped.
    call : callable
        The model, from a batch to outputs.
    """

    def __init__(self, layout: Map, descriptors: list[int], call: Any) -> None:
        expected = 2 + len(layout.sizes)
        if len(descriptors) != expected or len(layout.sizes) < 3 + layout.slots:
            raise ProtocolError(f"MAP came with {len(descriptors)} descriptors, not {expected}")
        self._posted_bell, self._finished_bell = descriptors[:2]
        os.set_blocking(self._posted_bell, True)
        writable = range(3, 3 + layout.slots)
        maps = []
        for i, (fd, size) in enumerate(zip(descriptors[2:], layout.sizes)):
            access = mmap.ACCESS_WRITE if i == 0 or i in writable else mmap.ACCESS_READ
            maps.append(mmap.mmap(fd, size, access=access))
            os.close(fd)
        self._control = maps[0]
        if self._control[:12] != CONTROL_MAGIC + struct.pack("<I", VERSION):
            raise ProtocolError("the control segment does not begin as it should")
        # Words of eight bytes, so that each is read and written in one piece.
        self._words = memoryview(self._control).cast("Q")
        self._sources = maps[1:3]
        self._outputs = maps[3 : 3 + layout.slots]
        self._copies = maps[3 + layout.slots :]
        self._layout = layout
        self._call = call
        self._input = RowColumns(layout.input)
        self._output = RowColumns(layout.output)
        self._targets = [
            self._output.targets(memory, layout.places, layout.rows) for memory in self._outputs
        ]

    def serve(self) -> None:
        """Run batches in the order of their numbers, until the engine says that it closes."""
        words, posted, number = self._words, 0, 0
        while True:
            # The posted word is looked at only after a ring, which orders memory.
            while number < posted:
                number += 1
                self._run(number)
            if words[CLOSING_AT // 8]:
                return
            os.read(self._posted_bell, 8)
            posted = words[POSTED_AT // 8]

    def _run(self, number: int) -> None:
        words, layout = self._words, self._layout
        place = number % layout.slots
        slot = (SLOTS_AT + place * SLOT_BYTES) // 8
        words[RUNNING_AT // 8] = number
        rows, segment = words[slot + 1] & _LOW, words[slot + 1] >> 32
        status, text = OUTPUTS, b""
        try:
            source = self._copies[place] if segment == COPY else self._sources[segment]
            outputs = self._predict(source, slot + INPUTS_AT // 8, rows)
            self._output.write(outputs, rows, self._targets[place])
        except BaseException as error:  # SystemExit, say: its rows have failed, the worker lives
            status, text = MODEL_ERROR, error_text(error, layout.text_bytes)
            self._outputs[place][layout.text_at : layout.text_at + len(text)] = text
        reply = slot + REPLY_AT // 8
        words[reply] = number
        words[reply + 1] = status | rows << 32
        words[reply + 2] = len(text)
        words[FINISHED_AT // 8] = number
        os.write(self._finished_bell, _RING)

    def _predict(self, source: Any, at: int, rows: int) -> Any:
        words, columns = self._words, self._input.columns
        if not self._input.named:
            return self._call(columns[0].view(source, words[at], words[at + 1], rows))
        return self._call(**{
            column.name: column.view(source, words[at + 2 * i], words[at + 2 * i + 1], rows)
            for i, column in enumerate(columns)
        })  # fmt: skip


def error_text(error: BaseException, most: int) -> bytes:
    """Return ``Type: message``, a line of it, and then the traceback, in so many bytes."""
    first = f"{type(error).__name__}: {error}".replace("\n", " ")[:2000]
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    text = first.encode("utf-8", "replace") + b"\n"
    rest = trace.encode("utf-8", "replace")
    return (text + rest[-(most - len(text)) :])[:most]
