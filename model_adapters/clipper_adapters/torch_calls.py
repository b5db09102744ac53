"""How modules of PyTorch are called with tensors by name, and what they return is read."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.dlpack import from_dlpack

Tensors = dict[str, Any]
Call = Callable[[Tensors], Any]
#: Which of a module's outputs are served: one by its key, or several by their names.
Outputs = str | Sequence[str | None] | None


def bind(module: nn.Module, positional: Sequence[str]) -> Call:
    """Return a function of tensors by name that calls the module.

    Parameters
    ----------
    module : torch.nn.Module
    positional : sequence of str
        Names of the inputs that are passed by position, in this order; all others by keyword.
    """
    if not positional:
        return lambda tensors: module(**tensors)

    def call(tensors: Tensors) -> Any:
        rest = {name: tensor for name, tensor in tensors.items() if name not in positional}
        return module(*[tensors[name] for name in positional], **rest)

    return call


def as_tensor(batch: Any) -> torch.Tensor:
    """Return a tensor over the memory of an array or of anything that speaks DLPack."""
    # The capsule by itself is the cheapest way in: 2.1 us, against 4.3 us for torch.from_dlpack,
    # which asks for device, stream and version first. torch.from_numpy takes 1.9 us, but warns of
    # each array that is not writable; NumPy hands such an array out only in a versioned capsule.
    if isinstance(batch, np.ndarray):
        return from_dlpack(batch.__dlpack__(max_version=(1, 0)))
    return from_dlpack(batch.__dlpack__())


def examined(call: Call, tensors: Tensors) -> tuple[Any, bool]:
    """Run a call on copies of its tensors; return its output, and whether it needs copies always.

    It does if it writes to them, or returns their memory: the rows belong to the engine, and torch
    has no read-only tensors.
    """
    # Inference tensors do not count how often they are written to; these do.
    with torch.inference_mode(False), torch.no_grad():
        own = {name: tensor.clone() for name, tensor in tensors.items()}
        versions = [tensor._version for tensor in own.values()]
        output = call(dict(own))
    is_written = versions != [tensor._version for tensor in own.values()]
    memory = {tensor.untyped_storage().data_ptr() for tensor in own.values()}
    is_shared = any(part.untyped_storage().data_ptr() in memory for part in _tensors_in(output))
    return output, is_written or is_shared


def guarded(call: Call) -> Call:
    """Return the call such that it can neither write to its tensors nor return them.

    The first batch shows what it does; later ones are copied only where it needs that.
    """
    chosen: Call

    def copied(tensors: Tensors) -> Any:
        return call({name: tensor.clone() for name, tensor in tensors.items()})

    def first(tensors: Tensors) -> Any:
        nonlocal chosen
        output, needs_copy = examined(call, tensors)
        chosen = copied if needs_copy else call
        return output

    chosen = first

    def run(tensors: Tensors) -> Any:
        return chosen(tensors)

    return run


def read_outputs(returned: Any, outputs: Outputs, who: str) -> Any:
    """Return what is served of what a module returned: as an array, or a dict of arrays.

    Raises
    ------
    TypeError
        If it returned several outputs that have no names, or something that is no tensor.
    ValueError
        If it did not return an output that `outputs` names.
    """
    if isinstance(returned, torch.Tensor):
        if outputs is None:
            return to_array(returned)
        returned = (returned,)
    named = _by_name(returned, outputs, who)
    chosen = list(named) if outputs is None else [outputs] if isinstance(outputs, str) else outputs
    found: dict[str, NDArray[Any]] = {}
    for name in chosen:
        if name is None:
            continue
        part = named.get(name)
        if not isinstance(part, torch.Tensor):
            what = "no" if name not in named else f"a {type(part).__name__} as its"
            raise ValueError(
                f"{who} returned {what} output {name!r}; expected a tensor: it has "
                f"{', '.join(map(str, named))}, choose with outputs="
            )
        found[name] = to_array(part)
    return found[outputs] if isinstance(outputs, str) else found


def to_array(tensor: torch.Tensor) -> NDArray[Any]:
    """Return a contiguous array of what a tensor holds, copied only from a GPU."""
    if tensor.dtype == torch.bfloat16:
        raise TypeError(
            "the model returned bfloat16, which NumPy lacks: let it return .float() instead"
        )
    array: NDArray[Any] = tensor.cpu().contiguous().numpy()
    return array


def _by_name(returned: Any, outputs: Outputs, who: str) -> Mapping[str, Any]:
    if isinstance(returned, Mapping):
        return returned
    if not isinstance(returned, tuple | list):
        raise TypeError(
            f"{who} returned a {type(returned).__name__}; expected a tensor, a dict or a tuple of "
            "tensors: wrap the model so that it returns one of them"
        )
    as_dict: Callable[[], Mapping[str, Any]] | None = getattr(returned, "_asdict", None)
    if as_dict is not None:
        return as_dict()
    if outputs is None or isinstance(outputs, str):
        raise TypeError(
            f"{who} returned a {type(returned).__name__} of {len(returned)}, whose parts have no "
            "names: pass outputs= with a name for each, None for those not to serve"
        )
    if len(outputs) != len(returned):
        raise ValueError(
            f"{who} returned {len(returned)} outputs, but outputs={list(outputs)!r} names "
            f"{len(outputs)}: give one name for each, None for those not to serve"
        )
    return {name: part for name, part in zip(outputs, returned, strict=True) if name is not None}


def _tensors_in(returned: Any) -> list[torch.Tensor]:
    if isinstance(returned, Mapping):
        returned = list(returned.values())
    if isinstance(returned, tuple | list):
        return [tensor for part in returned for tensor in _tensors_in(part)]
    return [returned] if isinstance(returned, torch.Tensor) else []
