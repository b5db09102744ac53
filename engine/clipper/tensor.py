"""What one row of a model's input or output looks like."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike


@dataclass(frozen=True, slots=True, init=False)
class Tensor:
    """A tensor of fixed shape that describes one row, without the batch axis.

    Parameters
    ----------
    dtype : data-type
        Anything that ``numpy.dtype`` takes: a boolean, integer or floating-point type.
    shape : tuple of int
        The shape of one row; ``()`` is a scalar. A batch of n rows has shape ``(n, *shape)``.

    Raises
    ------
    TypeError
        If the dtype is not numeric.
    ValueError
        If an extent is not a positive integer.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __init__(self, dtype: DTypeLike, shape: tuple[int, ...] = ()) -> None:
        resolved = np.dtype(dtype)
        if resolved.kind not in "biuf" or resolved.itemsize > 8 or not resolved.isnative:
            raise TypeError(
                f"Tensor dtype {dtype!r} cannot be served: give a native boolean, integer or "
                "floating-point dtype of at most 64 bits, such as 'float32'"
            )
        extents = tuple(int(extent) for extent in shape)
        if any(extent < 1 for extent in extents):
            raise ValueError(
                f"Tensor shape {shape!r} has an extent below 1: give the fixed shape of one row, "
                "without the batch axis"
            )
        object.__setattr__(self, "dtype", resolved)
        object.__setattr__(self, "shape", extents)

    @property
    def row_bytes(self) -> int:
        """Size of one row, in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"Tensor({self.dtype.name!r}, {self.shape})"
