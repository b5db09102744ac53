"""What is wrong with a configuration, in words that say what to write instead."""

import difflib
from collections.abc import Collection, Iterable, Sequence

from clipper.errors import ClipperError


class ConfigError(ClipperError, ValueError):
    """A configuration that cannot be used. The text names every problem that was found.

    Attributes
    ----------
    problems : tuple of str
        One for each, with the table and key that it is about.
    """

    status = 422

    def __init__(self, file: str, problems: Sequence[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        super().__init__("\n".join(f"{file}: {problem}" for problem in self.problems))


def nearest(given: str, known: Collection[str]) -> str:
    """Say which of the known names was probably meant, or which there are."""
    close = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there are {', '.join(sorted(known))}" if known else "there are none"


def unknown_keys(given: Iterable[str], known: Collection[str]) -> list[str]:
    """Return a sentence for each key that nobody knows."""
    return [f"unknown key {key!r}: {nearest(key, known)}" for key in given if key not in known]
