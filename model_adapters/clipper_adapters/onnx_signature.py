"""Reads what an ONNX file takes and returns."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from clipper import Tensor

#: Which outputs are served: one alone, or several by name.
Outputs = str | Sequence[str] | None

_DTYPES = {
    "tensor(bool)": "bool",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{
        f"tensor({kind}{bits})": f"{kind}{bits}"
        for kind in ("int", "uint")
        for bits in (8, 16, 32, 64)
    },
}


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a file takes.

    Attributes
    ----------
    rows : dict of Tensor
        One row of each input that a caller gives.
    mask_dtypes : dict
        Of each input that is a mask.
    in_file : dict of str
        What the file calls each, where that is not a Python name.
    """

    rows: dict[str, Tensor]
    mask_dtypes: dict[str, np.dtype[Any]]
    in_file: dict[str, str]


def python_name(name: str) -> str:
    """Return the Python name that a name of a file is served by."""
    plain = re.sub(r"\W", "_", name)
    return plain if plain.isidentifier() else f"_{plain}"


def python_names(names: Sequence[str], who: str) -> dict[str, str]:
    """Return for each name of a file the Python name that it is served by.

    Raises
    ------
    ValueError
        If two names would be the same.
    """
    served = {name: python_name(name) for name in names}
    if len(set(served.values())) < len(names):
        raise ValueError(
            f"{who} has the names {', '.join(names)}, which are not all different as Python names: "
            "rename them in the file"
        )
    return served


def read_inputs(
    session: onnxruntime.InferenceSession,
    given: Mapping[str, Tensor],
    masks: Collection[str],
    *,
    who: str,
    pads: bool,
) -> Inputs:
    """Read what a file takes.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
    given : dict of Tensor
        Rows that the caller described; may leave out what the file states.
    masks : collection of str
        Inputs that the adapter fills in itself.
    who : str
        Whose inputs they are, for the message of an error.
    pads : bool
        Whether a dynamic second axis is a ragged one.

    Raises
    ------
    ValueError
        If an input cannot be served, or what was given does not fit.
    """
    arguments = {argument.name: argument for argument in session.get_inputs()}
    served = python_names(list(arguments), who)
    by_served = {name: arguments[in_file] for in_file, name in served.items()}
    for name in [*given, *masks]:
        if name not in by_served:
            raise ValueError(f"{who} has no input {name!r}; it has: {', '.join(by_served) or '-'}")
    return Inputs(
        {
            name: _row_of(argument, given.get(name), f"{who} whose input {name!r}", pads)
            for name, argument in by_served.items()
            if name not in masks
        },
        {name: _dtype_of(by_served[name], f"{who} whose input {name!r}") for name in masks},
        {name: in_file for in_file, name in served.items() if name != in_file},
    )


def choose_outputs(
    session: onnxruntime.InferenceSession, chosen: Outputs, who: str
) -> dict[str, str]:
    """Return what the file calls each output to serve.

    Raises
    ------
    ValueError
        If one that was chosen is not there.
    """
    served = python_names([argument.name for argument in session.get_outputs()], who)
    in_file = {name: in_file for in_file, name in served.items()}
    if chosen is None:
        return in_file
    names = [chosen] if isinstance(chosen, str) else list(chosen)
    for name in names:
        if served.get(name, name) not in in_file:
            raise ValueError(f"OnnxModel got outputs={chosen!r}; {who} has: {', '.join(in_file)}")
    names = [served.get(name, name) for name in names]
    return {name: in_file[name] for name in names}


def stated_output(session: onnxruntime.InferenceSession, name: str) -> Tensor | None:
    """Return one row of an output; None where the file does not state it."""
    argument = next(a for a in session.get_outputs() if a.name == name)
    dtype, row = _DTYPES.get(argument.type), argument.shape[1:]
    batch_is_dynamic = argument.shape and not isinstance(argument.shape[0], int)
    if dtype is None or not batch_is_dynamic or not all(isinstance(extent, int) for extent in row):
        return None
    return Tensor(dtype, tuple(row))


def _dtype_of(argument: Any, what: str) -> np.dtype[Any]:
    if argument.type not in _DTYPES:
        raise ValueError(f"{what} is a {argument.type}; expected numbers of at most 64 bits")
    return np.dtype(_DTYPES[argument.type])


def _row_of(argument: Any, given: Tensor | None, what: str, pads: bool) -> Tensor:
    dtype = _dtype_of(argument, what)
    if not argument.shape or isinstance(argument.shape[0], int):
        raise ValueError(
            f"{what} has the fixed shape {argument.shape}; expected a dynamic first axis, the "
            "batch: export the model again with one (dynamic_shapes in torch.onnx.export)"
        )
    # An int where the file states the extent; a name or None where it is dynamic.
    row: list[Any] = list(argument.shape[1:])
    if given is not None:
        return _checked(given, dtype, argument, what)
    if pads and row and not isinstance(row[0], int):
        row[0] = None
    if not all(isinstance(extent, int) or (i == 0 and pads) for i, extent in enumerate(row)):
        remedy = f"pass input=clipper.Tensor({dtype.name!r}, (...))"
        if not isinstance(row[0], int):
            remedy += ", or pad= if rows differ in length there"
        raise ValueError(
            f"{what} has the shape {argument.shape} with dynamic axes besides the batch; "
            f"expected one fixed shape of a row: {remedy}"
        )
    return Tensor(dtype, tuple(row))


def _checked(given: Tensor, dtype: np.dtype[Any], argument: Any, what: str) -> Tensor:
    row = argument.shape[1:]
    fits = len(row) == len(given.shape) and all(
        not isinstance(mine, int) or mine == extent
        for mine, extent in zip(row, given.shape, strict=True)
    )
    if given.dtype != dtype or given.kind != "array" or not fits:
        raise ValueError(
            f"{what} is a {dtype.name} of shape {argument.shape}; input={given} does not fit: "
            "leave input= out, or give sizes to the dynamic axes only"
        )
    return given
