"""Rows of different lengths, one after the other: Arrow's list layout."""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Ragged(Sequence[NDArray[Any]]):
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

    Notes
    -----
    Iterating and indexing give views, not copies.

    Examples
    --------
    >>> rows = Ragged.from_rows([[1, 2, 3], [4]])
    >>> [row.tolist() for row in rows]
    [[1, 2, 3], [4]]
    >>> rows.padded()[0].tolist()
    [[1, 2, 3], [4, 0, 0]]
    """

    __slots__ = ("_offsets", "_values")

    def __init__(self, values: NDArray[Any], offsets: ArrayLike) -> None:
        self._values: NDArray[Any] = np.asarray(values)
        # A copy that nobody writes to: it is checked here, and trusted from here on.
        self._offsets: NDArray[np.int64] = np.array(offsets, np.int64)
        self._offsets.flags.writeable = False
        if self.offsets.ndim != 1 or len(self.offsets) == 0 or self.values.ndim == 0:
            raise ValueError(
                f"Ragged got values of shape {self.values.shape} and offsets of shape "
                f"{self.offsets.shape}: give values (total, ...) and offsets (n + 1,)"
            )
        if (
            self.offsets[0] < 0
            or self.offsets[-1] > len(self.values)
            or (np.diff(self.offsets) < 0).any()
        ):
            raise ValueError(
                f"Ragged offsets must rise from 0 or more to {len(self.values)}, the number of "
                f"values, at most: they run from {self.offsets[0]} to {self.offsets[-1]}"
            )

    @property
    def values(self) -> NDArray[Any]:
        """All rows, one directly after the other, shape (total, ...)."""
        return self._values

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each row begins, and the last one ends, shape (n + 1,); read-only."""
        return self._offsets

    @classmethod
    def from_rows(cls, rows: Sequence[ArrayLike], dtype: Any = None) -> "Ragged":
        """Join rows of shape ``(length, ...)``, at least one, into one object."""
        arrays = [np.asarray(row, dtype) for row in rows]
        if not arrays:
            raise ValueError("Ragged.from_rows got no rows: their dtype and shape are not known")
        return cls(np.concatenate(arrays), _offsets([len(array) for array in arrays]))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The length of each row, shape (n,)."""
        return np.diff(self.offsets)

    def padded(
        self, length: int | None = None, value: Any = 0
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the rows as one array, and where its values are real.

        Parameters
        ----------
        length : int, optional
            Of the padded axis; the longest row's if not given.
        value : scalar, default 0
            What to pad with.

        Returns
        -------
        padded : ndarray, shape (n, length, ...)
        mask : ndarray of bool, shape (n, length)

        Raises
        ------
        ValueError
            If a row is longer than ``length``.
        """
        lengths = self.lengths
        longest = int(lengths.max(initial=0))
        if length is None:
            length = longest
        if longest > length:
            raise ValueError(f"a row of length {longest} cannot be padded to {length}")
        mask: NDArray[np.bool_] = np.arange(length) < lengths[:, None]
        padded = np.full((len(self), length, *self.values.shape[1:]), value, self.values.dtype)
        padded[mask] = self.values[self.offsets[0] : self.offsets[-1]]
        return padded, mask

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> "Ragged": ...
    def __getitem__(self, index: int | slice) -> "NDArray[Any] | Ragged":
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return Ragged(self.values, self.offsets[start : max(stop, start) + 1])
            picked = [self[i] for i in range(start, stop, step)]
            empty = self.values[:0]
            return Ragged(np.concatenate([empty, *picked]), _offsets([len(p) for p in picked]))
        row = range(len(self))[index]
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Ragged(n={len(self)}, dtype={self.values.dtype}, item={self.values.shape[1:]})"


def _offsets(lengths: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
