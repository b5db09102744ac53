"""What callers say of answers: how wrong they were, and what became of saying so."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

LossName = Literal["zero_one", "absolute", "squared", "log"]

_NAMES: tuple[LossName, ...] = ("zero_one", "absolute", "squared", "log")
_LEAST_PROBABILITY = 1e-3


class FeedbackStatus(IntEnum):
    """What became of feedback on one row: facts of life, so that nothing is raised for them.

    The numbers are stable: the wire protocols carry them.
    """

    APPLIED = 0
    """The policy has learned from it, or will as soon as its context's state has been read."""
    DUPLICATE = 1
    """The row has had its feedback."""
    EXPIRED = 2
    """The row is no longer known: too old, or pushed out by newer ones."""
    UNKNOWN = 3
    """No such query was answered here: another engine's, or a made-up id."""
    FOREIGN = 4
    """The query was another application's."""
    UNATTRIBUTED = 5
    """No model's output could be judged: none answered, or, with a reward or a loss, the answer
    given was no model's own. Nothing was learned, and a label may still come."""
    REFUSED = 6
    """There was no memory for what the row's context would learn. Nothing was learned; say it again
    later, or give the application more ``context_memory``."""
    UNSAVED = 7
    """As APPLIED, but the engine's store could not take it: it would be missing if the process died
    before the store is back."""


@dataclass(frozen=True, slots=True)
class Loss:
    """How far an output is from its label, from 0 (right) to 1; computed without Python.

    Parameters
    ----------
    kind : {"zero_one", "absolute", "squared", "log"}
        ``"zero_one"``: 0 if the output equals the label, else 1; if outputs are vectors of floats
        and the label is an integer, whether the largest element is the one it names.
        ``"absolute"``: the mean distance of output and label over the elements, divided by
        ``scale``.
        ``"squared"``: the mean of the distances' squares, divided by that of ``scale``.
        ``"log"``: -ln p / ``scale``, where p is the probability that the output gives the class in
        the label; a scalar output is the probability of class 1.
    scale : float, optional
        The distance at which the loss is 1: everything beyond costs 1 too, and so does an output
        that is no number. 1 if not given; for ``"log"`` ln 1000, so that a probability of a
        thousandth costs 1.
    """

    kind: LossName = "zero_one"
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in _NAMES:
            raise ValueError(
                f"loss is {self.kind!r}: give one of {', '.join(map(repr, _NAMES))}, "
                "or a function of output and label"
            )
        default = -math.log(_LEAST_PROBABILITY) if self.kind == "log" else 1.0
        scale = default if self.scale is None else float(self.scale)
        if not 0.0 < scale < math.inf:
            raise ValueError(f"the scale of a loss is {self.scale!r}: give a number above 0")
        object.__setattr__(self, "scale", scale)


LossFunction = Callable[[Any, Any], float]


def to_loss(loss: Loss | LossName | LossFunction | None) -> Loss | LossFunction | None:
    """Read the shorthand of users.

    Raises
    ------
    TypeError, ValueError
        If it is nothing that judges outputs.
    """
    if loss is None or isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        kind: Any = loss  # Loss says what may be named
        return Loss(kind)
    if callable(loss):
        return loss
    raise TypeError(
        f"loss is {loss!r}: give one of {', '.join(map(repr, _NAMES))}, a clipper.Loss, or a "
        "function of output and label"
    )
