"""Reads files written by torch.export: what they take, and how they are called."""

import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipper import Tensor


@dataclass(frozen=True, slots=True)
class ProgramInputs:
    """The inputs of an exported program.

    Attributes
    ----------
    rows : dict of Tensor or None
        One row of each input that a caller gives, in the program's order; None where the file does
        not state it.
    mask_dtypes : dict
        Of each input that is a mask.
    positional : tuple of str
        Which are passed by position: a program is called only the way it was exported.
    """

    rows: dict[str, Tensor | None]
    mask_dtypes: dict[str, np.dtype[Any]]
    positional: tuple[str, ...]


def read_program(path: Path) -> torch.export.ExportedProgram:
    """Load a file.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it is not one of torch.export.
    """
    if not path.exists():
        raise FileNotFoundError(f"TorchModel got {str(path)!r}: no such file")
    advice = (
        "expected a file written by torch.export.save whose name ends in .pt2; load anything else "
        "(TorchScript, a state_dict) yourself and pass the module"
    )
    # torch logs its whole traceback before it raises.
    if path.suffix != ".pt2" or not zipfile.is_zipfile(path):
        raise ValueError(f"TorchModel cannot read {str(path)!r}: {advice}")
    try:
        return torch.export.load(path)
    except Exception as error:
        raise ValueError(f"TorchModel cannot read {str(path)!r} ({error}): {advice}") from error


def inputs_of_program(
    program: torch.export.ExportedProgram, path: Path, masks: Collection[str], *, pads: bool
) -> ProgramInputs:
    """Read what a program takes.

    Parameters
    ----------
    program : torch.export.ExportedProgram
    path : Path
        Where it is from, for the message of an error.
    masks : collection of str
        Inputs that the adapter fills in itself.
    pads : bool
        Whether a dynamic second axis is a ragged one.

    Raises
    ------
    ValueError
        If an input is no tensor or has no dynamic batch axis, or a mask is not an input.
    """
    nodes: tuple[Any, ...] = tuple(program.graph_signature.user_inputs)
    what = f"TorchModel got {str(path)!r}, exported with the inputs {', '.join(map(str, nodes))}"
    spec: Any = program.call_spec.in_spec  # its class is torch's own affair
    # torch 2.4 has the attribute only.
    by_position, by_keyword = spec.children() if hasattr(spec, "children") else spec.children_specs
    if by_position.num_children + by_keyword.num_children != len(nodes):
        raise ValueError(f"{what}, some of which are parts of one argument; export each by itself")
    # A node is called like its argument, unless Python has that name; keywords keep their own.
    names: list[Any] = [*nodes[: by_position.num_children], *(by_keyword.context or ())]
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    tensors: dict[str, torch.Tensor] = {}
    for name, node in zip(names, nodes, strict=True):
        value = values.get(node) if isinstance(node, str) else node
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{what}, of which {name} is no tensor; export it with tensors only")
        tensors[str(name)] = value
    for mask in masks:
        if mask not in tensors:
            raise ValueError(f"{what}; mask={mask!r} is none of them")
    return ProgramInputs(
        {n: _row_of(t, path, pads) for n, t in tensors.items() if n not in masks},
        {n: numpy_dtype(tensors[n].dtype) or np.dtype(np.int64) for n in masks},
        tuple(tensors)[: by_position.num_children],
    )


def _row_of(tensor: torch.Tensor, path: Path, pads: bool) -> Tensor | None:
    batch: Any = None
    row: list[Any] = []  # ints, or torch.SymInt where dynamic
    if tensor.ndim:
        batch, *row = tensor.shape
    if batch is None or isinstance(batch, int):
        raise ValueError(
            f"TorchModel got {str(path)!r}, exported for batches of exactly {batch or 'one'}; "
            "expected a dynamic first axis: torch.export.export(..., "
            "dynamic_shapes=({0: Dim('batch')},))"
        )
    dtype = numpy_dtype(tensor.dtype)
    if pads and row and not isinstance(row[0], int):
        row[0] = None
    if dtype is None or not all(extent is None or isinstance(extent, int) for extent in row):
        return None
    return Tensor(dtype, tuple(row))


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any] | None:
    """Return NumPy's name for a dtype; None for bfloat16 and its like."""
    try:
        return torch.empty(0, dtype=dtype).numpy().dtype
    except TypeError:
        return None
