"""Example rows: what they are, and batches of them as a model gets them."""

from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from .ragged import Ragged
from .tensor import RowType, Tensor, is_named


def check_example(given: Any, tensors: RowType | None) -> Any:
    """Return the row that ``warmup=`` gave as arrays, bytes and text; refuse another kind of row.

    Parameters
    ----------
    given : array_like, bytes, str, or dict of those
    tensors : Tensor or dict of Tensor, optional
        What the model takes, where that is known.
    """
    if tensors is None:
        if is_named(given):
            return {name: _value(value, None, name) for name, value in given.items()}
        return _value(given, None, "warmup")
    if isinstance(tensors, Tensor):
        return _value(given, tensors, "warmup")
    if not is_named(given) or set(given) != set(tensors):
        raise ValueError(f"warmup is {given!r}, but the input is {tensors!r}: give one row of each")
    return {name: _value(given[name], tensors[name], f"warmup[{name!r}]") for name in tensors}


def type_of_example(example: Any) -> RowType:
    """Describe a row that was given as an example."""
    if is_named(example):
        return {name: _type_of(value) for name, value in example.items()}
    return _type_of(example)


def batch_of(tensors: RowType, example: Any, rows: int) -> Any:
    """Repeat a row into a batch, of the kind and as read-only as when it serves."""
    if isinstance(tensors, Tensor):
        return _column_of(tensors, example, rows)
    return {name: _column_of(tensor, example[name], rows) for name, tensor in tensors.items()}


def type_of_outputs(outputs: Any) -> RowType:
    """Describe one row of what a model returned for a batch of one."""
    if is_named(outputs):
        return {name: _type_of_output(value) for name, value in outputs.items()}
    return _type_of_output(outputs)


def resized(tensors: RowType, example: Any, length: int) -> Any:
    """Repeat or cut an example's ragged rows to a length."""
    if not isinstance(tensors, Tensor):
        return {name: resized(tensor, example[name], length) for name, tensor in tensors.items()}
    if not tensors.is_ragged or len(example) == 0:
        return example
    repeats = -(-length // len(example))
    if tensors.kind == "array":
        return np.concatenate([example] * repeats)[:length]
    return (example * repeats)[:length]


def _value(given: Any, tensor: Tensor | None, what: str) -> Any:
    if isinstance(given, (bytes, str)) and (tensor is None or tensor.kind != "array"):
        return given
    row = np.asarray(given)
    if tensor is None:
        return row
    if not isinstance(given, np.ndarray):
        row = row.astype(tensor.dtype)
    leading = int(tensor.is_ragged)
    if (
        tensor.kind != "array"
        or row.dtype != tensor.dtype
        or row.shape[leading:] != tensor.item_shape
    ):
        raise ValueError(
            f"{what} is {row.dtype} of shape {row.shape}, but the input is {tensor!r}: give one row"
        )
    return row


def _type_of(value: Any) -> Tensor:
    if isinstance(value, (bytes, str)):
        return Tensor(type(value))
    return Tensor(value.dtype, value.shape)


def _column_of(tensor: Tensor, example: Any, rows: int) -> Any:
    if tensor.kind != "array":
        return [example] * rows
    repeated = np.ascontiguousarray(np.broadcast_to(example, (rows, *example.shape)))
    if not tensor.is_ragged:
        repeated.flags.writeable = False
        return repeated
    values = repeated.reshape(rows * len(example), *tensor.item_shape)
    values.flags.writeable = False
    return Ragged(values, np.arange(rows + 1) * len(example))


def _type_of_output(outputs: Any) -> Tensor:
    if outputs is None:
        raise TypeError("it returned None for a batch of one row: does it return its outputs?")
    if isinstance(outputs, Ragged):
        return Tensor(outputs.values.dtype, (None, *outputs.values.shape[1:]))
    if _is_list(outputs) and outputs and isinstance(outputs[0], (bytes, str)):
        return Tensor(type(outputs[0]))
    array: NDArray[Any] = np.asarray(outputs)
    if array.ndim == 0 or array.shape[0] != 1:
        raise ValueError(
            f"it returned an array of shape {array.shape} for a batch of one row: a model is "
            "called with a batch and returns one output for each row"
        )
    return Tensor(array.dtype, array.shape[1:])


def _is_list(given: Any) -> TypeGuard[list[Any]]:
    return isinstance(given, list)
