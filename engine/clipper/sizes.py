"""Sizes of memory as people write them."""

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "B": 1}


def to_bytes(size: int | str) -> int:
    """Read a size such as ``"256MiB"`` or a number of bytes."""
    if isinstance(size, str):
        for unit, factor in _UNITS.items():
            number = size.removesuffix(unit).strip()
            if number != size and number.replace(".", "", 1).isdigit():
                return int(float(number) * factor)
    elif isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    raise ValueError(f"{size!r} is no size: give bytes, or a string such as '256MiB' or '4GiB'")


def to_text(size: int) -> str:
    """Write a number of bytes as people read it: ``"1.5 GiB"``."""
    for unit in ("GiB", "MiB", "KiB"):
        if size >= _UNITS[unit]:
            return f"{size / _UNITS[unit]:.1f} {unit}"
    return f"{size} B"
