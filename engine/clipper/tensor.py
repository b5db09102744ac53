"""What one row of a model's input or output looks like."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

Kind = Literal["array", "bytes", "text"]

_LARGEST_ITEM = 1 << 40
_BLOBS: dict[Any, Kind] = {"bytes": "bytes", bytes: "bytes", "text": "text", str: "text"}


@dataclass(frozen=True, slots=True, init=False)
class Tensor:
    """One tensor of a row, without the batch axis.

    Parameters
    ----------
    dtype : data-type
        Anything that ``numpy.dtype`` takes and that is boolean or numeric, ``"bfloat16"`` and its
        like where ml_dtypes is installed; or ``"bytes"`` or ``"text"`` for rows that are ``bytes``
        or ``str``.
    shape : tuple of int or None
        The shape of one row; ``()`` is a scalar. A batch of n rows has shape ``(n, *shape)``. None
        as the first extent: ragged, each row has a length of its own there.

    Attributes
    ----------
    kind : {"array", "bytes", "text"}

    Raises
    ------
    TypeError
        If the dtype is not numeric.
    ValueError
        If an extent is not a positive integer.

    Examples
    --------
    >>> Tensor("float32", (3, 224, 224))
    Tensor('float32', (3, 224, 224))
    >>> Tensor("int64", (None,))  # tokens
    Tensor('int64', (None,))
    >>> Tensor("text")
    Tensor('text')
    """

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    kind: Kind

    def __init__(self, dtype: DTypeLike, shape: tuple[int | None, ...] = ()) -> None:
        kind: Kind = "array"
        if isinstance(dtype, (str, type)) and dtype in _BLOBS:
            kind = _BLOBS[dtype]
            if shape not in ((), (None,)):
                raise ValueError(
                    f"Tensor({kind!r}) has no shape, but was given {shape!r}: leave it out"
                )
            dtype, shape = np.uint8, (None,)
        extents = tuple(extent if extent is None else int(extent) for extent in shape)
        if None in extents[1:]:
            raise ValueError(
                f"Tensor shape {shape!r} has None after its first extent: only the first axis of a "
                "row may be ragged; flatten the others, or give rows as bytes"
            )
        if any(extent is not None and extent < 1 for extent in extents):
            raise ValueError(
                f"Tensor shape {shape!r} has an extent below 1: give the fixed shape of one row, "
                "without the batch axis"
            )
        resolved = _numeric(dtype)
        item_bytes = math.prod(extent for extent in extents if extent) * resolved.itemsize
        if item_bytes > _LARGEST_ITEM:
            raise ValueError(
                f"Tensor shape {shape!r} of {resolved} takes {item_bytes} bytes a row: give one "
                "below a tebibyte"
            )
        object.__setattr__(self, "dtype", resolved)
        object.__setattr__(self, "shape", extents)
        object.__setattr__(self, "kind", kind)

    @property
    def is_ragged(self) -> bool:
        """Whether rows have lengths of their own; so have bytes and text."""
        return self.shape[:1] == (None,)

    @property
    def item_shape(self) -> tuple[int, ...]:
        """The shape without a ragged first axis."""
        return tuple(extent for extent in self.shape if extent is not None)

    @property
    def item_bytes(self) -> int:
        """Size of one row, in bytes; of a ragged one, of one step along its axis."""
        return math.prod(self.item_shape) * self.dtype.itemsize

    def __repr__(self) -> str:
        if self.kind != "array":
            return f"Tensor({self.kind!r})"
        return f"Tensor({self.dtype.name!r}, {self.shape})"


#: One tensor, or several by name.
RowType = Tensor | Mapping[str, Tensor]
#: What can be asked: one row, or several. Text and bytes are array_like to NumPy's types.
Row = ArrayLike | Mapping[str, Any]
Rows = ArrayLike | Sequence[Any] | Mapping[str, Any]


def _numeric(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        resolved = np.dtype(dtype)
    except TypeError:
        resolved = _extended(dtype)
    is_extended = type(resolved).__module__ not in ("numpy", "numpy.dtypes") or (
        resolved.type.__module__ == "ml_dtypes"
    )
    if not resolved.isnative or not (resolved.kind in "biufc" or is_extended):
        raise TypeError(
            f"Tensor dtype {dtype!r} cannot be served: give a boolean or numeric dtype in native "
            "byte order, such as 'float32', or 'bytes' or 'text'"
        )
    return resolved


def _extended(dtype: Any) -> np.dtype[Any]:
    """Resolve the names that NumPy knows only once ml_dtypes is imported."""
    try:
        import ml_dtypes  # noqa: PLC0415 - optional, and only for those who name its types

        resolved: np.dtype[Any] = np.dtype(getattr(ml_dtypes, dtype))
        return resolved
    except (ImportError, TypeError, AttributeError):
        raise TypeError(
            f"Tensor dtype {dtype!r} is not known: give one that numpy.dtype takes, such as "
            "'float32'; 'bfloat16' and its like need ml_dtypes installed"
        ) from None


def is_named(given: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether these are several tensors by name."""
    return isinstance(given, Mapping)


def check_row_type(given: Any, what: str) -> RowType:
    """Return a Tensor as it is, several as a dict with names that are identifiers.

    Raises
    ------
    TypeError, ValueError
        If it is something else.
    """
    if isinstance(given, Tensor):
        return given
    if is_named(given):
        named = dict(given)
        if not 1 <= len(named) <= 32:
            raise ValueError(f"{what} names {len(named)} tensors: give 1 to 32")
        for name, tensor in named.items():
            if not isinstance(name, str) or not name.isidentifier():
                raise ValueError(f"{what} has the name {name!r}: give Python identifiers")
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{what}[{name!r}] is {tensor!r}: give a clipper.Tensor")
        return named
    raise TypeError(
        f"{what} is {given!r}: give clipper.Tensor(dtype, shape) of one row, or a dict of those"
    )
