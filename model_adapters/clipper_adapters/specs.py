"""What the adapters share: rows of zeros, the spec of an output, devices."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipper import Tensor


def zero_row(spec: Tensor | None) -> NDArray[Any] | None:
    """Return a row of zeros of the given spec; None if there is no spec."""
    return None if spec is None else np.zeros(spec.item_shape, spec.dtype)


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
            "whose first axis is the batch: wrap the model so that it returns a single array"
        )
    if output.ndim == 0 or output.shape[0] != 1:
        raise TypeError(
            f"{who} returned an array of shape {output.shape} for a batch of one row; expected "
            "(1, ...): make the batch the first axis of what the model returns"
        )
    return Tensor(output.dtype, output.shape[1:])


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
