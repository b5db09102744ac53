"""Adapters that let Clipper serve models of PyTorch, ONNX Runtime and scikit-learn.

Importing this package imports none of the three; naming an adapter imports its framework.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .onnx_runtime import OnnxModel
    from .padding import Pad
    from .pytorch import TorchModel
    from .scikit_learn import SklearnModel

__all__ = ["OnnxModel", "Pad", "SklearnModel", "TorchModel"]

#: Each adapter's module, and the extra of the ``clipper`` package that installs its framework.
_HOMES = {
    "OnnxModel": ("onnx_runtime", "onnx"),
    "Pad": ("padding", ""),
    "SklearnModel": ("scikit_learn", "sklearn"),
    "TorchModel": ("pytorch", "torch"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, extra = _HOMES[name]
    try:
        return getattr(import_module(f".{module}", __name__), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} needs {error.name}, which is not installed: pip install 'clipper[{extra}]'",
            name=error.name,
        ) from error


def __dir__() -> list[str]:
    return __all__
