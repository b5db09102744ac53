"""Pads ragged inputs into arrays for models that know no other, and cuts their answers back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from clipper import Ragged, Tensor

_MOST_BUCKETS = 15  # as many as the engine groups by
#: Tells whether outputs follow the padded length, where there are no buckets to try it with.
_TRIAL_LENGTHS = (16, 17)


@dataclass(frozen=True, slots=True)
class Pad:
    """How an adapter turns ragged inputs into arrays: padded at the end, to one length a batch.

    Parameters
    ----------
    value : scalar or dict of scalar, default 0
        What to pad with; of each ragged input by its name, those not named with 0.
    buckets : sequence of int
        Lengths, rising, 15 at most. A batch is padded to the smallest that holds its longest row.
        The engine lets rows of one bucket form batches of their own. Without any, a batch is padded
        to its longest row, and rows of all lengths share batches.
    mask : str or dict of str, optional
        The name under which the model is also given the mask: 1 where a value is real, 0 where it
        is padding, shape (n, length). A string is the mask of the first ragged input; a dict gives
        ragged inputs, by name, one each.
    mask_dtype : data-type, optional
        ``"int64"``, ``"bool"`` or another that holds 0 and 1. Where left out it is what the model's
        file states, and int64 for models that are no file.

    Raises
    ------
    ValueError
        If the buckets do not rise from 1 or more, or are too many.
    TypeError
        If a mask's name is no string.

    Notes
    -----
    A row longer than the last bucket is not cut: its batch fails. Such rows wait apart from the
    others, so they fail each other only, unless grouping is switched off (``length_buckets=()`` of
    ``Engine.deploy``) or a ragged input that is not the first is too long.

    Padding never shows: an output whose second axis follows the padded length comes back ragged,
    each row cut to the length of its input.

    Examples
    --------
    >>> Pad(buckets=(16, 32, 64), mask="attention_mask")
    Pad(value=0, buckets=(16, 32, 64), mask='attention_mask', mask_dtype=None)
    """

    value: float | Mapping[str, float] = 0
    buckets: Sequence[int] = ()
    mask: str | Mapping[str, str] | None = None
    mask_dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        buckets = tuple(int(length) for length in self.buckets)
        object.__setattr__(self, "buckets", buckets)
        rises = list(buckets) == sorted(set(buckets))
        if not rises or len(buckets) > _MOST_BUCKETS or min(buckets, default=1) < 1:
            raise ValueError(
                f"Pad got buckets={buckets}; expected up to {_MOST_BUCKETS} lengths that rise, "
                "from 1"
            )
        names = self.mask.values() if isinstance(self.mask, Mapping) else [self.mask or ""]
        if not all(isinstance(name, str) for name in names):
            raise TypeError(
                f"Pad got mask={self.mask!r}; expected the name by which the model takes its mask, "
                "or a dict from ragged inputs to such names"
            )


class Padder:
    """Pads the batches of one model.

    Parameters
    ----------
    pad : Pad
    inputs : dict of Tensor
        One row of each input of the model, ragged ones among them.
    mask_dtypes : dict
        By name of a mask, where the model's file states it.
    who : str
        Whose inputs they are, for the message of an error.

    Raises
    ------
    ValueError
        If `pad` speaks of an input that is not ragged or not there.
    """

    def __init__(
        self,
        pad: Pad,
        inputs: Mapping[str, Tensor],
        *,
        who: str,
        mask_dtypes: Mapping[str, np.dtype[Any]] | None = None,
    ) -> None:
        self.ragged: list[str] = [name for name, tensor in inputs.items() if tensor.is_ragged]
        self._who = who
        self._inputs = dict(inputs)
        self._buckets = tuple(pad.buckets)
        value = pad.value
        told = value if isinstance(value, Mapping) else dict.fromkeys(self.ragged, value)
        self.masks: dict[str, str] = mask_names(pad, self.ragged)
        for name in [*told, *self.masks]:
            if name not in self.ragged:
                raise ValueError(
                    f"{who} got pad={pad}, which speaks of {name!r}; its ragged inputs are: "
                    f"{', '.join(self.ragged) or 'none'}"
                )
        self._values = {name: told.get(name, 0) for name in self.ragged}
        stated = mask_dtypes or {}
        self._mask_dtypes = {
            mask: np.dtype(stated.get(mask, np.int64) if pad.mask_dtype is None else pad.mask_dtype)
            for mask in self.masks.values()
        }

    def __call__(
        self, batches: Mapping[str, Any], length: int | None = None
    ) -> tuple[dict[str, Any], "Rows"]:
        """Pad the ragged ones of a batch's inputs, and add the masks.

        Parameters
        ----------
        batches : dict of batches
            `clipper.Ragged` where the input is ragged.
        length : int, optional
            Pad to this length, whatever the buckets.

        Returns
        -------
        dict
            What to give to the model: arrays of our own for ragged inputs and masks, the other
            batches as they came.
        Rows
            Cuts outputs back to the rows' lengths.

        Raises
        ------
        ValueError
            If a row is longer than the last bucket.
        """
        given = dict(batches)
        reals: list[NDArray[np.bool_]] = []
        for name in self.ragged:
            rows: Ragged = batches[name]
            to = self._length_for(name, rows) if length is None else length
            given[name], real = rows.padded(to, self._values[name])
            reals.append(real)
            mask = self.masks.get(name)
            if mask is not None:
                given[mask] = real.astype(self._mask_dtypes[mask])
        return given, Rows(self._who, self.ragged, reals)

    def trial_lengths(self) -> tuple[int, int]:
        """Two lengths to try a model with; the first is one that batches are padded to."""
        if not self._buckets:
            return _TRIAL_LENGTHS
        first, *rest = self._buckets
        return first, rest[0] if rest else first + 1

    @property
    def has_one_length(self) -> bool:
        """Whether all batches are padded to the same length: the model may take no other."""
        return len(self._buckets) == 1

    def zeros(self, length: int) -> tuple[dict[str, Any], "Rows"]:
        """Return a batch of one row of zeros, as the model is given it."""
        return self(
            {
                name: Ragged(np.zeros((length, *spec.item_shape), spec.dtype), [0, length])
                if spec.is_ragged
                else np.zeros((1, *spec.item_shape), spec.dtype)
                for name, spec in self._inputs.items()
            },
            length,
        )

    def _length_for(self, name: str, rows: Ragged) -> int:
        longest = int(rows.lengths.max(initial=0))
        if not self._buckets:
            return max(longest, 1)  # few models take arrays without values
        for length in self._buckets:
            if longest <= length:
                return length
        raise ValueError(
            f"{self._who} got a row of length {longest} for {name!r}; its longest bucket is "
            f"{self._buckets[-1]}: cut the row, or give pad= a longer bucket"
        )


class Rows:
    """The rows of one padded batch: where its arrays are real."""

    __slots__ = ("_names", "_reals", "_who")

    def __init__(self, who: str, names: list[str], reals: list[NDArray[np.bool_]]) -> None:
        self._who = who
        self._names = names
        self._reals = reals

    def cut_all(self, found: Any, ragged: Sequence[str]) -> Any:
        """Cut those outputs back that are ragged; `found` is a single one, or several by name."""
        if not isinstance(found, dict):
            return self.cut(found, "output")
        return {
            name: self.cut(output, repr(name)) if name in ragged else output
            for name, output in found.items()
        }

    def cut(self, output: NDArray[Any], what: str) -> Ragged:
        """Cut an output of shape (n, length, ...) back to the lengths of its rows.

        Raises
        ------
        ValueError
            If it does not have the padded length, or if ragged inputs of different lengths leave
            open which of them it follows.
        """
        real = self._reals[0]
        for name, other in zip(self._names[1:], self._reals[1:], strict=True):
            if not np.array_equal(real, other):
                raise ValueError(
                    f"{self._who} cannot tell whether its {what} follows "
                    f"{self._names[0]!r} or {name!r}, whose rows differ in length: give rows of "
                    "equal length, or reduce the output to a fixed shape in the model"
                )
        if output.shape[:2] != real.shape:
            raise ValueError(
                f"{self._who} returned {what} of shape {output.shape} for rows padded to "
                f"{real.shape}; expected these as its first axes, as the output is ragged: give "
                "output= as the model returns it"
            )
        return Ragged(output[real], np.concatenate([[0], real.sum(axis=1).cumsum()]))


def mask_names(pad: Pad | None, ragged: Sequence[str]) -> dict[str, str]:
    """Return the names of masks, by the ragged inputs that they are of."""
    if pad is None or pad.mask is None:
        return {}
    return dict(pad.mask) if isinstance(pad.mask, Mapping) else dict.fromkeys(ragged[:1], pad.mask)


def padder_for(
    pad: Pad | None,
    inputs: Mapping[str, Tensor],
    *,
    who: str,
    mask_dtypes: Mapping[str, np.dtype[Any]] | None = None,
) -> Padder | None:
    """Return what pads a model's inputs; None where none is ragged.

    Raises
    ------
    ValueError
        If `pad` is missing, or does not fit the inputs.
    """
    ragged = ", ".join(repr(name) for name, tensor in inputs.items() if tensor.is_ragged)
    if pad is not None and not ragged:
        raise ValueError(f"{who} got {pad}, but none of its inputs is ragged: leave pad= out")
    if pad is None:
        if ragged:
            raise ValueError(
                f"{who} got the ragged input {ragged} and no pad=; it runs on arrays: pass "
                "pad=clipper_adapters.Pad(buckets=...)"
            )
        return None
    return Padder(pad, inputs, who=who, mask_dtypes=mask_dtypes)
