"""How a model gets into its worker: by name, as a file, or pickled."""

import importlib
import os
import pickle
import re
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from clipper.errors import DeployError
from clipper.model_protocol import Runner
from clipper.tensor import RowType

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class NamedModel:
    """A model that only its worker loads; what it takes and returns shows there."""

    batch_as: Literal["array", "dlpack"] = "array"

    def __init__(self, name: str) -> None:
        self.name = name
        self.input: RowType | None = None
        self.output: RowType | None = None

    def load(self, device: str) -> Runner:
        """Refuse: only its worker can load it."""
        raise DeployError(
            f"{self.name!r} names a model that a worker loads: deploy it with "
            "where=clipper.Isolated()"
        )

    def example(self) -> Any:
        """Return None: its worker knows, perhaps."""
        return None

    def __repr__(self) -> str:
        return repr(self.name)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What a worker is told to load."""

    kind: Literal["factory", "file", "pickle"]
    reference: str
    pickled: bytes = b""


def source_of(model: Any) -> ModelSource:
    """Find out how to send a model.

    Raises
    ------
    TypeError
        If it cannot be sent.
    """
    if isinstance(model, (str, os.PathLike)):
        text: str = os.fspath(model)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        if isinstance(model, str) and _FACTORY.fullmatch(text):
            return ModelSource("factory", text)
        return ModelSource("file", os.path.abspath(text))
    name = getattr(model, "__qualname__", None) or type(model).__name__
    return ModelSource("pickle", f"the {type(model).__name__} {name}", _pickled(model, name))


def _pickled(model: Any, name: str) -> bytes:
    cloudpickle: Any
    try:
        cloudpickle = importlib.import_module("cloudpickle")
    except ModuleNotFoundError:
        cloudpickle = None
    dumps = pickle.dumps if cloudpickle is None else cloudpickle.dumps
    module = sys.modules.get(getattr(model, "__module__", None) or type(model).__module__)
    by_value = cloudpickle is not None and module is not None and not _can_be_found(module)
    try:
        if by_value:
            cloudpickle.register_pickle_by_value(module)  # pyright: ignore[reportOptionalMemberAccess]
        return bytes(dumps(model))
    except Exception as error:
        hint = "" if cloudpickle else " (cloudpickle, which takes more, is not installed)"
        raise TypeError(
            f"{name} cannot be sent to another process{hint}: {type(error).__name__}: {error}. "
            "Give a factory by name, 'package.module:function', or a file"
        ) from error
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(module)  # pyright: ignore[reportOptionalMemberAccess]


def _can_be_found(module: ModuleType) -> bool:
    """Whether another process with this one's ``sys.path`` would import the same module."""
    if module.__name__ == "__main__":
        return True  # cloudpickle knows about it
    path: Any = None
    parts = module.__name__.split(".")
    spec = None
    for i in range(len(parts)):
        finders = (finder.find_spec for finder in sys.meta_path if hasattr(finder, "find_spec"))
        name = ".".join(parts[: i + 1])
        spec = next(filter(None, (find(name, path, None) for find in finders)), None)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    here = getattr(module, "__file__", None)
    return here is None or (spec is not None and spec.origin == here)
