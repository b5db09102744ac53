"""Rows of different lengths, as models get them: the same face as ``clipper.Ragged``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Array = Any  # an ndarray: numpy.typing is not in every NumPy that a worker may meet


class Ragged(Sequence):  # type: ignore[type-arg]  # not subscriptable before it is needed
    """Several rows that differ in the length of their first axis.

    Parameters
    ----------
    values : ndarray, shape (total, ...)
        All rows, one directly after the other.
    offsets : array_like of int, shape (n + 1,)
        Row i is ``values[offsets[i]:offsets[i + 1]]``. Must not decrease.

    Raises
    ------
    ValueError
        If the offsets do not describe rows of the values.
    """

    __slots__ = ("offsets", "values")

    def __init__(self, values: Array, offsets: Any) -> None:
        self.values = np.asarray(values)
        self.offsets = np.asarray(offsets, np.int64)
        if self.offsets.ndim != 1 or len(self.offsets) == 0 or self.values.ndim == 0:
            raise ValueError(
                f"Ragged got values of shape {self.values.shape} and offsets of shape "
                f"{self.offsets.shape}: give values (total, ...) and offsets (n + 1,)"
            )
        rises = bool((self.offsets[1:] >= self.offsets[:-1]).all())
        if not rises or self.offsets[0] < 0 or self.offsets[-1] > len(self.values):
            raise ValueError(
                f"Ragged offsets must rise from 0 or more to {len(self.values)}, the number of "
                "values, at most"
            )

    @classmethod
    def from_rows(cls, rows: Any, dtype: Any = None) -> Ragged:
        """Join rows of shape ``(length, ...)``, at least one, into one object."""
        arrays = [np.asarray(row, dtype) for row in rows]
        if not arrays:
            raise ValueError("Ragged.from_rows got no rows: their dtype and shape are not known")
        lengths = [len(array) for array in arrays]
        return cls(np.concatenate(arrays), np.concatenate([[0], np.cumsum(lengths)]))

    @property
    def lengths(self) -> Array:
        """The length of each row, shape (n,)."""
        return np.diff(self.offsets)

    def padded(self, length: int | None = None, value: Any = 0) -> tuple[Array, Array]:
        """Return the rows as one array, shape (n, length, ...), and a mask of what is real."""
        lengths = self.lengths
        longest = int(lengths.max(initial=0))
        length = longest if length is None else length
        if longest > length:
            raise ValueError(f"a row of length {longest} cannot be padded to {length}")
        mask = np.arange(length) < lengths[:, None]
        padded = np.full((len(self), length, *self.values.shape[1:]), value, self.values.dtype)
        padded[mask] = self.values[self.offsets[0] : self.offsets[-1]]
        return padded, mask

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            picked = [self[i] for i in range(*index.indices(len(self)))]
            lengths = np.cumsum([0] + [len(row) for row in picked])
            return Ragged(np.concatenate([self.values[:0], *picked]), lengths)
        row = range(len(self))[index]
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[Array]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Ragged(n={len(self)}, dtype={self.values.dtype}, item={self.values.shape[1:]})"
