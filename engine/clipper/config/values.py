"""Single values of a configuration: a reader returns what the engine takes, or raises ValueError.

Readers get the value as TOML has it and the folder that paths are relative to.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from clipper.sizes import to_bytes
from clipper.tensor import RowType, Tensor

Reader = Callable[[Any, Path], Any]

_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-z]+)")
_TENSOR = re.compile(r"([A-Za-z_]\w*)\s*(?:\[([^\[\]]*)\])?")


def is_table(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether this is a table, whose keys are text in TOML."""
    return isinstance(value, Mapping)


def is_array(value: Any) -> TypeGuard[list[Any]]:
    """Whether this is an array."""
    return isinstance(value, list)


def text(value: Any, folder: Path) -> str:
    """Read a string that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is no text: give a string that is not empty")
    return value


def truth(value: Any, folder: Path) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def whole(least: int, most: int) -> Reader:
    """Make a reader of whole numbers in a range."""

    def read(value: Any, folder: Path) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{value!r} is no whole number from {least} to {most}")
        return value

    return read


def number(value: Any, folder: Path) -> float:
    """Read any number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or math.isnan(value):
        raise ValueError(f"{value!r} is no number")
    return value


def duration(value: Any, folder: Path) -> float:
    """Read a duration such as ``"20ms"``, or a number of seconds."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match and match[2] in _SECONDS:
            return float(match[1]) * _SECONDS[match[2]]
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    raise ValueError(
        f"{value!r} is no duration: give one such as '20ms' (units: {', '.join(_SECONDS)}), or a "
        "number of seconds"
    )


def size(value: Any, folder: Path) -> int:
    """Read a size such as ``"4GiB"``, or a number of bytes."""
    return to_bytes(value)


def path(value: Any, folder: Path) -> str:
    """Read a path, relative to the configuration's folder."""
    return str(folder / Path(text(value, folder)).expanduser())


def program(value: Any, folder: Path) -> str:
    """Read the path of an interpreter; a bare name is looked up by whoever starts it."""
    return path(value, folder) if "/" in text(value, folder) else value


def version(value: Any, folder: Path) -> int | str:
    """Read a version: a whole number or a name."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"{value!r} is no version: give a whole number or a name")


def anything(value: Any, folder: Path) -> Any:
    """Take the value as it is."""
    return value


def or_none(read: Reader) -> Reader:
    """Let ``false`` stand for None, which TOML does not have."""

    def read_or_none(value: Any, folder: Path) -> Any:
        return None if value is False else read(value, folder)

    return read_or_none


def one_of(*names: str) -> Reader:
    """Make a reader of one of these names."""

    def read(value: Any, folder: Path) -> str:
        if value not in names:
            raise ValueError(f"{value!r} is none of {', '.join(map(repr, names))}")
        return str(value)

    return read


def several(read: Reader, what: str) -> Reader:
    """Make a reader of an array."""

    def read_several(value: Any, folder: Path) -> tuple[Any, ...]:
        if not is_array(value):
            raise ValueError(f"{value!r} is no array of {what}: write [ … ]")
        return tuple(read(one, folder) for one in value)

    return read_several


def named(read: Reader, what: str) -> Reader:
    """Make a reader of a table with a value of one kind for each name."""

    def read_named(value: Any, folder: Path) -> dict[str, Any]:
        if not is_table(value):
            raise ValueError(f"{value!r} is no table of {what}: write {{ name = … }}")
        return {name: read(one, folder) for name, one in value.items()}

    return read_named


def row_type(value: Any, folder: Path) -> RowType:
    """Read what a row looks like: ``"float32[3, 224, 224]"``, or a table of those by name."""
    if is_table(value) and value:
        return {name: _tensor(one) for name, one in value.items()}
    return _tensor(value)


def _tensor(value: Any) -> Tensor:
    match = _TENSOR.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f"{value!r} is no tensor: give its dtype and the shape of one row, such as "
            "'float32[64]', 'int64[*]' (ragged), 'float32' (a scalar) or 'text'"
        )
    shape = tuple(_extent(extent.strip(), value) for extent in (match[2] or "").split(",")
                  if extent.strip())  # fmt: skip
    try:
        return Tensor(match[1], shape)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _extent(extent: str, value: str) -> int | None:
    if extent == "*":
        return None
    if not extent.isdecimal():
        raise ValueError(f"{value!r} has {extent!r} in its shape: give whole numbers, or '*' first")
    return int(extent)
