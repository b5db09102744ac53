"""Cascades: the next model is asked only where the one before is not sure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, init=False)
class Cascade:
    """Asks the models one after another, until one is sure enough.

    For each row the first model answers. Where its confidence is below the threshold, and the
    next one can still make the deadline, that one is asked, and its answer counts; else the answer
    so far stands, with its confidence. A model that fails, or is too late, changes nothing but
    ``Prediction.missing``.

    Parameters
    ----------
    thresholds : float or sequence of float
        In [0, 1]: below which confidence the next model is asked. One for each model but the last,
        or one for all.
    of : str, optional
        Which tensor says how sure a model is, where they have several outputs.

    Notes
    -----
    The confidence of an answer is the largest number of its output, which must be a vector of
    probabilities; or the output named by ``of``, which may also be a scalar. What is not a number
    is not sure.

    Source: Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features",
    CVPR 2001, for the idea of cheap models first.

    Examples
    --------
    >>> Cascade(0.9)
    Cascade(0.9)
    """

    thresholds: float | tuple[float, ...]
    of: str | None

    def __init__(self, thresholds: float | Sequence[float] = 0.9, *, of: str | None = None) -> None:
        several = isinstance(thresholds, Sequence) and not isinstance(thresholds, str)
        given: Sequence[Any] = thresholds if several else (thresholds,)  # type: ignore[assignment]
        for threshold in given:
            if not isinstance(threshold, (int, float)) or not 0.0 <= threshold <= 1.0:
                raise ValueError(
                    f"Cascade was given {thresholds!r}: thresholds are confidences from 0 to 1, "
                    "such as Cascade(0.9) or Cascade([0.9, 0.8])"
                )
        if not given:
            raise ValueError("Cascade was given no thresholds: give one, such as Cascade(0.9)")
        object.__setattr__(self, "thresholds", tuple(map(float, given)) if several else given[0])
        object.__setattr__(self, "of", of)

    def __repr__(self) -> str:
        shown = list(self.thresholds) if isinstance(self.thresholds, tuple) else self.thresholds
        return f"Cascade({shown!r}{'' if self.of is None else f', of={self.of!r}'})"
