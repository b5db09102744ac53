"""What the adapters share: rows of zeros, the specs of outputs, devices."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from clipper import Tensor

from .padding import Padder

#: One tensor, or several by name.
RowType = Tensor | Mapping[str, Tensor]
Answer = Callable[[dict[str, Any]], Any]

#: What a single input is called among inputs by name.
ONLY = "input"


def zero_row(specs: RowType | None) -> Any:
    """Return a row of zeros of the given specs, ragged ones of length 1; None without specs."""
    if specs is None or isinstance(specs, Tensor):
        return None if specs is None else np.zeros(_shape(specs), specs.dtype)
    return {name: np.zeros(_shape(spec), spec.dtype) for name, spec in specs.items()}


def by_name(specs: RowType) -> dict[str, Tensor]:
    """Return tensors by name; a single one is named ``ONLY``."""
    return {ONLY: specs} if isinstance(specs, Tensor) else dict(specs)


def check_numeric(specs: RowType, who: str) -> None:
    """Raise ValueError where an input is bytes or text."""
    for name, spec in by_name(specs).items():
        if spec.kind != "array":
            raise ValueError(
                f"{who} got the input {name!r} of {spec.kind}; expected numbers: tokenise before "
                "you ask, or deploy a function that does and then calls the model"
            )


def spec_of_outputs(outputs: Any, who: str) -> RowType:
    """Describe one row of what a model returned for a batch of one, by name if it is a dict."""
    if isinstance(outputs, Mapping):
        return {
            name: spec_of_output(output, f"{who}'s output {name!r}")
            for name, output in outputs.items()
        }
    return spec_of_output(outputs, who)


def spec_of_output(output: Any, who: str) -> Tensor:
    """Describe one row of what a model returned for a batch of one.

    Parameters
    ----------
    output : ndarray, shape (1, ...)
        The model's answer.
    who : str
        What ran, for the message of an error.

    Raises
    ------
    TypeError
        If the output is not one array with the batch as its first axis.
    """
    if not isinstance(output, np.ndarray):
        raise TypeError(
            f"{who} returned a {type(output).__name__} for a batch of one row; expected one array "
            "whose first axis is the batch: wrap the model so that it returns arrays"
        )
    if output.ndim == 0 or output.shape[0] != 1:
        raise TypeError(
            f"{who} returned an array of shape {output.shape} for a batch of one row; expected "
            "(1, ...): make the batch the first axis of what the model returns"
        )
    return Tensor(output.dtype, output.shape[1:])


def probe(answer: Answer, inputs: Mapping[str, Tensor], padder: Padder | None, who: str) -> RowType:
    """Read off a row of zeros what a row of each output is.

    Parameters
    ----------
    answer : callable
        Runs the model on arrays by name; returns an array, or a dict of those.
    inputs : dict of Tensor
    padder : Padder, optional
        Pads ragged inputs. The model is then asked at two lengths: outputs whose second axis
        follows are ragged.
    who : str
        What runs, for the message of an error.

    Raises
    ------
    TypeError
        If an output is no array with the batch as its first axis.
    ValueError
        If an output's shape depends on the padded length in another way.
    """
    if padder is None:
        zeros = {n: np.zeros((1, *spec.item_shape), spec.dtype) for n, spec in inputs.items()}
        return spec_of_outputs(answer(zeros), who)
    lengths = padder.trial_lengths()
    first = spec_of_outputs(answer(padder.zeros(lengths[0])[0]), who)
    try:
        second = spec_of_outputs(answer(padder.zeros(lengths[1])[0]), who)
    except Exception:
        if not padder.has_one_length:
            raise
        return first  # it is never given another length
    if isinstance(first, Tensor):
        return _followed(first, by_name(second)[ONLY], lengths, who)
    return {
        name: _followed(spec, by_name(second)[name], lengths, f"{who}'s output {name!r}")
        for name, spec in first.items()
    }


def _followed(first: Tensor, second: Tensor, lengths: tuple[int, int], who: str) -> Tensor:
    """Describe an output by what it was at two padded lengths."""
    if first == second:
        return first
    rest = first.shape[1:]
    if first.shape == (lengths[0], *rest) and second.shape == (lengths[1], *rest):
        return Tensor(first.dtype, (None, *rest))
    raise ValueError(
        f"{who} has rows of shape {first.shape} for inputs padded to {lengths[0]}, and "
        f"{second.shape} for {lengths[1]}; expected one shape, or the padded length as its first "
        "extent: reduce the output to such a shape in the model, or pad to a single bucket"
    )


def _shape(spec: Tensor) -> tuple[int, ...]:
    return tuple(1 if extent is None else extent for extent in spec.shape)


def cuda_index(device: str, *, available: int, who: str, remedy: str) -> int | None:
    """Return the index of the GPU that a device names; None for the CPU.

    Parameters
    ----------
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda:<index>"``; ``"auto"`` is the first GPU if there is one.
    available : int
        How many GPUs the framework can use.
    who, remedy : str
        Who asks, and what to do where no GPU can be used, for the message of an error.

    Raises
    ------
    ValueError
        If the device is none of the above, or there is no such GPU.
    """
    if device == "cpu" or (device == "auto" and available == 0):
        return None
    if device == "auto":
        return 0
    named = re.fullmatch(r"cuda:(\d+)", device)
    if named is None:
        raise ValueError(
            f"{who} got device={device!r}; expected 'auto', 'cpu' or 'cuda:<index>', "
            "such as 'cuda:0'"
        )
    if available == 0:
        raise ValueError(f"{who} got device={device!r}, but no GPU can be used: {remedy}")
    index = int(named[1])
    if index >= available:
        raise ValueError(
            f"{who} got device={device!r}, but only 'cuda:0' to 'cuda:{available - 1}' exist here"
        )
    return index


def check_threads(threads: int | None, who: str) -> None:
    """Raise ValueError unless ``threads`` is None or a positive integer."""
    if threads is not None and threads < 1:
        raise ValueError(
            f"{who} got threads={threads}; expected 1 or more, or None for the framework's default"
        )
