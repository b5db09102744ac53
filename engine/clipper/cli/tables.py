"""Text for people: tables, trees, times."""

from collections.abc import Iterable, Sequence
from typing import Any

from clipper.config.values import is_array, is_table

_GAP = "  "


def table(heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Align rows under a heading; numbers to the right."""
    shown = [[_cell(cell) for cell in row] for row in rows]
    given = [list(heading), *shown]
    widths = [max(len(row[i]) for row in given) for i in range(len(heading))]
    to_right = [bool(shown) and all(_is_number(row[i]) for row in shown)
                for i in range(len(heading))]  # fmt: skip
    return "\n".join(
        _GAP.join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, to_right, strict=True)
        ).rstrip()
        for row in given
    )


def tree(value: Any, indent: str = "") -> str:
    """Write nested values one under the other."""
    if is_table(value):
        pairs: Iterable[tuple[str, Any]] = value.items()
    elif is_array(value):
        pairs = ((f"{i}", one) for i, one in enumerate(value))
    else:
        return f"{indent}{_cell(value)}"
    lines: list[str] = []
    for key, one in pairs:
        if _is_nested(one):
            lines += [f"{indent}{key}:", tree(one, indent + _GAP)]
        else:
            first, *rest = _cell(one).split("\n")
            lines += [f"{indent}{key}: {first}", *(f"{indent}{_GAP}{line}" for line in rest)]
    return "\n".join(lines)


def milliseconds(seconds: float | None) -> str:
    """Show seconds as milliseconds."""
    return "-" if not seconds else f"{seconds * 1e3:.3g} ms"


def _is_nested(value: Any) -> bool:
    if is_array(value):
        return any(is_array(part) or is_table(part) for part in value)
    return is_table(value) and bool(value)


def _cell(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if is_array(value):
        return ", ".join(map(str, value))
    return str(value)


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.split(" ", maxsplit=1)[0].replace(".", "", 1).isdigit()
