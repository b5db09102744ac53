"""Where models come from: files and factories, found, checked and opened."""

import dataclasses
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

from clipper.errors import DeployError
from clipper.replicas.isolation import Isolated
from clipper.replicas.rows import to_rows
from clipper_worker import protocol
from clipper_worker.models import ModelFailure, open_model

from .problems import nearest
from .sections import ModelConfig
from .values import is_table

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_PICKLES = (".joblib", ".pkl", ".pickle")
_FILES = (".onnx", ".pt2", ".pt", ".ts", *_PICKLES)


def is_factory(source: str) -> bool:
    """Whether this names a factory, ``package.module:function``, and no file."""
    return _FACTORY.fullmatch(source) is not None


def fingerprint(table: Any, folder: Path) -> str:
    """Return what changes when the file of a model's table does; empty where there is none."""
    source = table.get("source") if is_table(table) else None
    if not isinstance(source, str) or is_factory(source):
        return ""
    try:
        found = (folder / source).stat()
    except (OSError, ValueError):
        return ""
    return f"{found.st_size} bytes of {found.st_mtime_ns}"


def full_source(model: ModelConfig) -> ModelConfig:
    """Write a file's path in full, and let isolated factories be found beside the configuration."""
    if is_factory(model.source):
        if isinstance(model.where, Isolated):
            paths = (*model.where.paths, str(model.folder))
            return dataclasses.replace(model, where=dataclasses.replace(model.where, paths=paths))
        return model
    return dataclasses.replace(model, source=str(model.folder / Path(model.source).expanduser()))


def wrong_source(model: ModelConfig) -> str | None:
    """Say what is wrong with a model's source, without loading it; None: nothing that shows."""
    if is_factory(model.source):
        return None if _has_its_own_packages(model) else _wrong_module(model.source, model.folder)
    file = Path(model.source)
    if file.suffix.lower() not in _FILES:
        return (
            f"{model.source!r} is no model: give a factory, 'package.module:function', or a file "
            f"that ends in {', '.join(_FILES)}"
        )
    if file.suffix.lower() in _PICKLES and not model.where.may_unpickle:
        return (
            f"{model.source!r} is a pickle, and loading one runs whatever it holds: if you "
            'trust it, write where = { kind = "thread", may_unpickle = true }'
        )
    if not file.is_file():
        beside = [path.name for path in file.parent.glob("*") if path.suffix.lower() in _FILES]
        return f"there is no file {file}: {nearest(file.name, beside)}"
    return None


def _has_its_own_packages(model: ModelConfig) -> bool:
    """Whether another interpreter will import it, which finds what is not found here."""
    programs = ("python", "image", "command")
    return any(getattr(model.where, name, None) is not None for name in programs)


def _wrong_module(source: str, folder: Path) -> str | None:
    module = source.partition(":")[0]
    _look_in(folder)
    try:
        found = importlib.util.find_spec(module)
    except Exception as error:  # of the package around it, which this imports
        return f"{module!r} cannot be imported: {type(error).__name__}: {error}"
    if found is None:
        return f"no module {module!r} is found, neither beside the configuration nor installed"
    return None


def _look_in(folder: Path) -> None:
    """Let modules beside the configuration be imported; at the end, so that they hide nothing."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        importlib.invalidate_caches()


def imported(reference: str, folder: Path) -> Any:
    """Import what ``package.module:name`` names.

    Raises
    ------
    DeployError
        If there is no such thing.
    """
    _look_in(folder)
    module, _, name = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise DeployError(
            f"{reference!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return found


def open_source(model: ModelConfig) -> Any:
    """Return what ``Engine.deploy`` takes: an adapter or callable, or a name for the worker.

    Raises
    ------
    DeployError
        If it cannot be opened.
    """
    if isinstance(model.where, Isolated):
        return model.source
    _look_in(model.folder)
    load = protocol.Load(
        "factory" if is_factory(model.source) else "file", model.source, model.device,
        model.where.may_unpickle, False, to_rows(model.input), to_rows(model.output), [],
    )  # fmt: skip
    try:
        return open_model(load)
    except Exception as error:
        text = str(error) if isinstance(error, ModelFailure) else f"{type(error).__name__}: {error}"
        raise DeployError(f"cannot deploy {model.name!r}: {text}") from error
