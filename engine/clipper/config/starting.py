"""Making an engine of a configuration."""

import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from clipper.errors import DeployError

from .applying import Applier
from .reading import read_config
from .sections import ServerConfig

if TYPE_CHECKING:
    from clipper.engine import Engine

_EngineT = TypeVar("_EngineT", bound="Engine")


def engine_options(kind: type[Any], server: ServerConfig, data: Path | None) -> dict[str, Any]:
    """Return what ``[server]`` says of the engine itself, in the constructor's words."""
    options: dict[str, Any] = {
        "keep_versions": server.keep_versions,
        "feedback_memory": server.feedback_memory,
        "feedback_window": server.feedback_window,
        "statistics_window": server.statistics_window,
    }
    # An engine without storage keeps its state in memory; the folder then holds the socket only.
    if data is not None and "data" in inspect.signature(kind).parameters:
        options["data"] = data
    return options


def make_engine(kind: type[_EngineT], path: str | os.PathLike[str]) -> _EngineT:
    """Do what ``Engine.from_file`` says."""
    config = read_config(path)
    data = None if config.server.data is None else Path(config.server.data)
    engine = kind(**engine_options(kind, config.server, data))
    try:
        failed = Applier(engine, config.server).apply(config).failed
        if failed:
            raise DeployError("\n".join(f"{config.file}: {text}" for text in failed))
    except BaseException:
        engine.close()
        raise
    return engine
