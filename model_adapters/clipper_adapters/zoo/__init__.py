"""Small models for demos, tests and benches: trained in seconds, or read from installed files.

All are seeded and need no network. Naming a builder imports the framework that it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import Digits, digits, train_svm
    from .minilm import MiniLM
    from .networks import mlp_784, resnet20, train_mlp
    from .onnx_files import export_onnx

__all__ = [
    "Digits",
    "MiniLM",
    "digits",
    "export_onnx",
    "mlp_784",
    "resnet20",
    "train_mlp",
    "train_svm",
]

_HOMES = {
    "Digits": "data",
    "MiniLM": "minilm",
    "digits": "data",
    "train_svm": "data",
    "mlp_784": "networks",
    "resnet20": "networks",
    "train_mlp": "networks",
    "export_onnx": "onnx_files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
