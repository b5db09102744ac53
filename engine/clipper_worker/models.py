"""Loading a model in its worker: an importable factory, a file, or what was pickled for us."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from typing import Any, NamedTuple

from .limits import limits_of, load_within
from .protocol import Load, Rows, Tensor


class ModelFailure(Exception):
    """A model that cannot be loaded, with what to do about it."""


class Found(NamedTuple):
    """A model, and what it says of itself."""

    call: Any  # a batch to outputs
    input: Rows | None
    output: Rows | None
    example: Any  # one row, or None


def load_model(load: Load, pickled: bytes) -> Found:
    """Load what LOAD names."""
    return _ready(_from_pickle(pickled) if load.kind == "pickle" else open_model(load), load)


def open_model(load: Load) -> Any:
    """Return the adapter or callable that a factory or file gives, not yet ready to run."""
    return _from_factory(load.reference) if load.kind == "factory" else _from_file(load)


def _ready(model: Any, load: Load) -> Found:
    """Turn an adapter, or any callable, into what runs a batch."""
    if hasattr(model, "load") and hasattr(model, "batch_as"):
        call = load_within(model, load.device, *limits_of())
        example = model.example() if hasattr(model, "example") else None
        return Found(call, _rows_of(model.input), _rows_of(model.output), example)
    if callable(model):
        return Found(model, None, None, None)
    raise ModelFailure(
        f"{load.reference} gave a {type(model).__name__}, which cannot be called: a model is a "
        "function from a batch to outputs, or an adapter such as those of clipper_adapters"
    )


def _from_factory(reference: str) -> Any:
    module_name, colon, name = reference.partition(":")
    if not colon or not module_name or not name:
        raise ModelFailure(f"{reference!r} names no factory: give 'package.module:function'")
    module = importlib.import_module(module_name)
    factory: Any = module
    for part in name.split("."):
        if not hasattr(factory, part):
            raise ModelFailure(f"{reference!r}: module {module_name!r} has no {name!r}")
        factory = getattr(factory, part)
    if not callable(factory):
        raise ModelFailure(
            f"{reference!r} is a {type(factory).__name__}: a factory is a function without "
            "arguments that returns the model"
        )
    return factory()


def _from_pickle(pickled: bytes) -> Any:
    try:
        return pickle.loads(pickled)
    except ModuleNotFoundError as error:
        raise ModelFailure(
            f"the model was sent from the engine's process and needs the module {error.name!r}, "
            "which this worker cannot import: install it there, or name a factory, "
            "'package.module:function'"
        ) from error


def _from_file(load: Load) -> Any:
    path = load.reference
    if not os.path.isfile(path):
        raise ModelFailure(f"there is no file {path}")
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (".joblib", ".pkl", ".pickle"):
        return _from_joblib(load)
    opener = {".onnx": _from_onnx, ".pt2": _from_program, ".pt": _from_script, ".ts": _from_script}
    if suffix not in opener:
        raise ModelFailure(
            f"{path} is no model: its name ends in {suffix!r}; expected .onnx, .pt2 (torch.export),"
            " .pt or .ts (TorchScript), or .joblib with Isolated(may_unpickle=True)"
        )
    try:
        return opener[suffix](load)
    except ModuleNotFoundError as error:
        raise ModelFailure(
            f"{path} needs the module {error.name!r}, which this worker's environment has not: "
            "install it there, or name a factory, 'package.module:function'"
        ) from error


def _from_onnx(load: Load) -> Any:
    # Not at the top: these are the model's needs, not the worker's.
    from clipper_adapters import OnnxModel  # noqa: PLC0415

    return OnnxModel(load.reference, **_told_input(load))


def _from_program(load: Load) -> Any:
    from clipper_adapters import TorchModel  # noqa: PLC0415

    return TorchModel(load.reference, **_told_input(load))


def _from_script(load: Load) -> Any:
    import torch  # noqa: PLC0415

    from clipper_adapters import TorchModel  # noqa: PLC0415

    try:
        script: Any = torch.jit  # untyped
        module = script.load(load.reference, map_location="cpu")
    except RuntimeError as error:
        raise ModelFailure(
            f"{load.reference} is no TorchScript: {str(error).splitlines()[0]}"
        ) from error
    return TorchModel(module, **_told_input(load))


def _from_joblib(load: Load) -> Any:
    if not load.may_unpickle:
        raise ModelFailure(
            f"{load.reference} is a pickle, and loading one runs whatever it holds: if you trust "
            "it, say so with Isolated(may_unpickle=True)"
        )
    try:
        import joblib  # noqa: PLC0415

        model = joblib.load(load.reference)
    except ModuleNotFoundError as error:
        raise ModelFailure(
            f"{load.reference} needs the module {error.name!r}, which this worker's environment "
            "has not: install it there"
        ) from error
    if callable(model):
        return model
    try:
        from clipper_adapters import SklearnModel  # noqa: PLC0415

        return SklearnModel(model)
    except ModuleNotFoundError:
        return model.predict  # all that such an estimator needs


def _told_input(load: Load) -> dict[str, Any]:
    """Return the input that deploy was told, in the adapters' own words."""
    if load.input is None:
        return {}
    Told: Any = sys.modules["clipper"].Tensor  # which its adapters have imported

    def told(tensor: Tensor) -> Any:
        if tensor.kind != "array":
            return Told(tensor.kind)
        leading: tuple[Any, ...] = (None,) if tensor.ragged else ()
        return Told(tensor.dtype, leading + tuple(tensor.shape))

    if not load.input.named:
        return {"input": told(load.input.tensors[0])}
    return {"input": {tensor.name: told(tensor) for tensor in load.input.tensors}}


def _rows_of(given: Any) -> Rows | None:
    """Describe what an adapter says that it takes or returns."""
    if given is None:
        return None
    if hasattr(given, "items"):
        return Rows(True, [_tensor_of(name, tensor) for name, tensor in given.items()])
    return Rows(False, [_tensor_of("", given)])


def _tensor_of(name: str, given: Any) -> Tensor:
    ragged = given.shape[:1] == (None,)
    shape = tuple(extent for extent in given.shape if extent is not None)
    return Tensor(name, given.dtype.name, given.kind, ragged, shape)
