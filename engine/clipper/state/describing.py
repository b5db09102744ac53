"""What users gave to deploy() and create_application(), as values that JSON can hold, and back."""

import base64
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from clipper import batching, cache, cascade, feedback, policies, shadow, tensor
from clipper.replicas.isolation import Isolated
from clipper.resources.request import Resources

_MOST_NUMBERS = 100_000  # of an example row

_CLASSES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        batching.Fixed, batching.Aimd, batching.Quantile, batching.Deadline, cache.Cache,
        cascade.Cascade, feedback.Loss, shadow.Shadow, Isolated, Resources,
        policies.Canary, policies.EpsilonGreedy, policies.Exp3, policies.Exp4,
        policies.MajorityVote, policies.Thompson, policies.Ucb1, policies.WeightedEnsemble,
        policies.WeightedSplit,
    )
}  # fmt: skip


class NotDescribableError(Exception):
    """A value that lives in this process only, such as a function."""


def describe(value: Any) -> Any:
    """Turn a value into what JSON can hold.

    Raises
    ------
    NotDescribableError
        If that cannot be done.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in cast("Sequence[Any]", value)]
    if isinstance(value, tensor.Tensor):
        name = value.kind if value.kind != "array" else value.dtype.name
        return {"$": "Tensor", "dtype": name, "shape": [*value.shape] if name != value.kind else []}
    kind = type(value).__name__
    if dataclasses.is_dataclass(value) and _CLASSES.get(kind) is type(value):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"$": kind, **fields}
    return _describe_data(value)


def _describe_data(value: Any) -> Any:
    if isinstance(value, Mapping):
        given: Mapping[Any, Any] = value  # pyright: ignore[reportUnknownVariableType]
        return {"$": "dict", "of": {str(key): describe(item) for key, item in given.items()}}
    if isinstance(value, bytes):
        return {"$": "bytes", "base64": base64.b64encode(value).decode()}
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, (np.ndarray, np.generic)):
        return _describe_array(value)  # pyright: ignore[reportUnknownArgumentType]
    raise NotDescribableError(f"{type(value).__name__} cannot be written down")


def _describe_array(value: Any) -> dict[str, Any]:
    array = np.asarray(value)
    if array.size > _MOST_NUMBERS or array.dtype.kind not in "biuf":
        raise NotDescribableError(f"an array of {array.size} {array.dtype} cannot be written down")
    return {
        "$": "array", "dtype": array.dtype.str, "shape": list(array.shape),
        "base64": base64.b64encode(array.tobytes()).decode(),
    }  # fmt: skip


def restore(plain: Any) -> Any:
    """Make the value again."""
    if isinstance(plain, list):
        return tuple(restore(item) for item in cast("Sequence[Any]", plain))
    if isinstance(plain, dict):
        return _restore_object(cast("dict[str, Any]", plain))
    return plain


def _restore_object(given: dict[str, Any]) -> Any:
    kind = given["$"]
    if kind == "dict":
        return {key: restore(item) for key, item in given["of"].items()}
    if kind == "bytes":
        return base64.b64decode(given["base64"])
    if kind == "array":
        flat = np.frombuffer(base64.b64decode(given["base64"]), np.dtype(given["dtype"]))
        return flat.reshape(given["shape"]).copy()
    fields = {key: restore(item) for key, item in given.items() if key != "$"}
    if kind == "Tensor":
        return tensor.Tensor(fields["dtype"], fields["shape"])
    return _CLASSES[kind](**fields)
