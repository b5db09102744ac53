"""Columns of a batch: memory to what a model is called with, and what it returns to memory."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .protocol import Place, Rows, Tensor
from .ragged import Ragged


def numpy_dtype(name: str) -> Any:
    """Return the dtype of a name; those beyond NumPy's need ml_dtypes in this environment."""
    try:
        return np.dtype(name)
    except TypeError:
        pass
    try:
        import ml_dtypes  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

        return np.dtype(getattr(ml_dtypes, name))
    except (ImportError, AttributeError):
        raise TypeError(
            f"this environment knows no dtype {name!r}: NumPy has none of this name, and ml_dtypes "
            "is not installed or has none either"
        ) from None


def ragged_class() -> Any:
    """Return clipper.Ragged where the model has imported clipper, else our own."""
    clipper = sys.modules.get("clipper")
    return Ragged if clipper is None else getattr(clipper, "Ragged", Ragged)


class Target(NamedTuple):
    """Where a column's outputs go, as arrays over an output segment."""

    values: Any
    offsets: Any  # of ragged columns


class Column:
    """One tensor, prepared for the hot path."""

    def __init__(self, tensor: Tensor) -> None:
        self.name = tensor.name
        self.kind = tensor.kind
        self.ragged = tensor.ragged
        self.dtype = numpy_dtype(tensor.dtype)
        self.shape = tuple(tensor.shape)
        items = 1
        for extent in self.shape:
            items *= extent
        self.item_bytes = items * self.dtype.itemsize

    def __repr__(self) -> str:
        if self.kind != "array":
            return f"Tensor({self.kind!r})"
        return f"Tensor({self.dtype.name!r}, {((None,) if self.ragged else ()) + self.shape})"

    # ---- in --------------------------------------------------------------------------------

    def view(self, memory: Any, data_at: int, offsets_at: int, rows: int) -> Any:
        """Return what a model gets: arrays are read-only views, bytes and text are copies."""
        if not self.ragged:
            return np.ndarray((rows, *self.shape), self.dtype, memory, data_at)
        offsets = np.ndarray((rows + 1,), np.int64, memory, offsets_at)
        first = int(offsets[0])
        offsets = offsets - first
        data_at += first * self.item_bytes
        items = int(offsets[-1])
        if self.kind == "array":
            values = np.ndarray((items, *self.shape), self.dtype, memory, data_at)
            return ragged_class()(values, offsets)
        blob = bytes(memory[data_at : data_at + items])
        ends = offsets.tolist()
        pieces = [blob[ends[i] : ends[i + 1]] for i in range(rows)]
        return [str(piece, "utf-8") for piece in pieces] if self.kind == "text" else pieces

    # ---- out -------------------------------------------------------------------------------

    def target(self, memory: Any, place: Place, rows: int) -> Target:
        """Prepare where outputs go, in one segment."""
        items = place.items if self.ragged else rows
        values = np.ndarray((items, *self.shape), self.dtype, memory, place.data_at)
        if not self.ragged:
            return Target(values, None)
        return Target(values, np.ndarray((rows + 1,), np.int64, memory, place.offsets_at))

    def write(self, outputs: Any, rows: int, target: Target) -> None:
        """Copy a model's outputs to where the engine wants them.

        Raises TypeError or ValueError with what the model should have returned.
        """
        if self.ragged:
            self._write_ragged(outputs, rows, target)
        else:
            target.values[:rows] = self.checked(outputs, rows)

    def checked(self, outputs: Any, rows: int) -> Any:
        """Return outputs of fixed shape as an array of this kind."""
        if (
            type(outputs) is np.ndarray
            and outputs.dtype == self.dtype
            and outputs.shape == (rows, *self.shape)
        ):
            return outputs
        wanted = f"{rows} outputs of {self}"
        if outputs is None:
            raise TypeError(f"the model returned None, expected {wanted}: does it return?")
        array = np.asarray(outputs)
        if array.ndim == 0 or array.shape[0] != rows:
            got = "one value" if array.ndim == 0 else f"{array.shape[0]} outputs"
            raise ValueError(
                f"the model returned {got} for {rows} inputs, expected {wanted}: a model is called "
                "with a batch and returns one output for each row"
            )
        if array.shape[1:] != self.shape:
            raise ValueError(f"the model returned outputs of shape {array.shape[1:]}, expected "
                             f"{wanted}")  # fmt: skip
        if array.dtype == self.dtype:
            return array
        is_safe = array.dtype != object and np.can_cast(array.dtype, self.dtype, "same_kind")
        if hasattr(outputs, "dtype") or not is_safe:
            raise TypeError(
                f"the model returned {array.dtype}, expected {wanted}: convert it with "
                f".astype('{self.dtype.name}') or declare the output as it is"
            )
        return array.astype(self.dtype)

    def _write_ragged(self, outputs: Any, rows: int, target: Target) -> None:
        if outputs is None:
            raise TypeError(
                f"the model returned None, expected {rows} outputs of {self}: does it return?"
            )
        values, offsets = self.joined(outputs, rows)
        if len(values) > len(target.values):
            raise ValueError(
                f"the model's outputs of a batch of {rows} rows have {len(values)} items, more "
                f"than the {len(target.values)} that there is room for: give Isolated a larger "
                "output_bytes, or smaller batches"
            )
        target.offsets[: rows + 1] = offsets
        target.values[: len(values)] = values

    def joined(self, outputs: Any, rows: int) -> tuple[Any, Any]:
        """Return ragged outputs as one array and offsets from 0."""
        lengths: Any
        if self.kind != "array":
            pieces = self._blobs(outputs)
            lengths = [len(piece) for piece in pieces]
            values = np.frombuffer(b"".join(pieces), np.uint8)
        elif hasattr(outputs, "values") and hasattr(outputs, "offsets"):
            offsets = np.asarray(outputs.offsets, np.int64)
            values = np.asarray(outputs.values)[int(offsets[0]) : int(offsets[-1])]
            lengths = np.diff(offsets)
            values = self._checked_values(values, outputs)
        else:
            arrays = [self._checked_values(np.asarray(row), outputs) for row in outputs]
            lengths = [len(array) for array in arrays]
            values = np.concatenate([np.empty((0, *self.shape), self.dtype), *arrays])
        if len(lengths) != rows:
            raise ValueError(
                f"the model returned {len(lengths)} outputs for {rows} inputs, expected {rows} "
                f"outputs of {self}: a model is called with a batch and returns one output for "
                "each row"
            )
        return values, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def _blobs(self, outputs: Any) -> list[bytes]:
        if isinstance(outputs, (str, bytes)):
            raise TypeError(f"the model returned {type(outputs).__name__}, expected a list of "
                            f"{self.kind}")  # fmt: skip
        wanted = str if self.kind == "text" else (bytes, bytearray, memoryview)
        pieces = []
        for output in outputs:
            if not isinstance(output, wanted):  # type: ignore[arg-type,unused-ignore]
                raise TypeError(f"the model returned a row that is {type(output).__name__}, "
                                f"expected {self.kind}")  # fmt: skip
            pieces.append(output.encode() if isinstance(output, str) else bytes(output))
        return pieces

    def _checked_values(self, values: Any, given: Any) -> Any:
        if values.ndim == 1 and values.size == 0 and not hasattr(given, "offsets"):
            return np.empty((0, *self.shape), self.dtype)  # an empty list says nothing else
        if values.shape[1:] != self.shape or values.ndim == 0:
            raise ValueError(f"the model returned rows of shape {values.shape}, expected {self}")
        if values.dtype == self.dtype:
            return values
        if not np.can_cast(values.dtype, self.dtype, "same_kind"):
            raise TypeError(f"the model returned {values.dtype}, expected {self}")
        return values.astype(self.dtype)


class RowColumns:
    """All tensors of a row: a model's whole input, or its whole output."""

    def __init__(self, rows: Rows) -> None:
        self.named = rows.named
        self.columns = [Column(tensor) for tensor in rows.tensors]

    def targets(self, memory: Any, places: list[Place], rows: int) -> list[Target]:
        """Prepare where outputs go, in one segment."""
        return [column.target(memory, place, rows) for column, place in zip(self.columns, places)]

    def write(self, outputs: Any, rows: int, targets: list[Target]) -> None:
        """Copy a model's outputs to where the engine wants them."""
        if not self.named:
            self.columns[0].write(outputs, rows, targets[0])
            return
        for column, target in zip(self.columns, targets):
            column.write(self.pick(outputs, column), rows, target)

    def pick(self, outputs: Any, column: Column) -> Any:
        """Return one of several outputs."""
        names = [known.name for known in self.columns]
        if not isinstance(outputs, Mapping) or set(outputs) != set(names):
            is_mapping = isinstance(outputs, Mapping)
            got = sorted(map(str, outputs)) if is_mapping else type(outputs).__name__
            raise TypeError(f"the model returned {got}, expected a dict with exactly "
                            f"{sorted(names)}")  # fmt: skip
        return outputs[column.name]


def describe_outputs(outputs: Any) -> Rows:
    """Describe one row of what a model returned for a batch of one."""
    if isinstance(outputs, Mapping):
        return Rows(True, [_describe(str(name), value) for name, value in outputs.items()])
    return Rows(False, [_describe("", outputs)])


def _describe(name: str, outputs: Any) -> Tensor:
    if outputs is None:
        raise TypeError("it returned None for a batch of one row: does it return its outputs?")
    if hasattr(outputs, "values") and hasattr(outputs, "offsets"):
        values = np.asarray(outputs.values)
        return Tensor(name, values.dtype.name, "array", True, values.shape[1:])
    if isinstance(outputs, list) and outputs and isinstance(outputs[0], (bytes, str)):
        kind = "bytes" if isinstance(outputs[0], bytes) else "text"
        return Tensor(name, "uint8", kind, True, ())
    array = np.asarray(outputs)
    if array.ndim == 0 or array.shape[0] != 1:
        raise ValueError(
            f"it returned an array of shape {array.shape} for a batch of one row: a model is "
            "called with a batch and returns one output for each row"
        )
    return Tensor(name, array.dtype.name, "array", False, array.shape[1:])
