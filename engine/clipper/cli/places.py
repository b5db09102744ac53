"""Where an engine's data directory is, and its socket in it."""

import os
import tomllib
from pathlib import Path
from typing import Any

from clipper.config import ConfigError
from clipper.config.values import is_table

SOCKET = "engine.sock"
DEFAULT_FILE = "clipper.toml"
_DEFAULT_DATA = "clipper-data"


def data_folder(given: str | None, declared: str | None) -> Path:
    """Choose the data directory: as given, as a file declares, as $CLIPPER_DATA says, or ours."""
    return Path(given or declared or os.environ.get("CLIPPER_DATA") or _DEFAULT_DATA).absolute()


def declared_here() -> str | None:
    """Return what the ``clipper.toml`` in this folder says, if there is one that does.

    Raises
    ------
    ConfigError
        If it cannot be read.
    """
    file = Path(DEFAULT_FILE)
    try:
        with file.open("rb") as opened:
            server: Any = tomllib.load(opened).get("server", {})
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(DEFAULT_FILE, [f"{error}; or name the folder with --data"]) from None
    data = server.get("data") if is_table(server) else None
    return str(file.absolute().parent / Path(data).expanduser()) if isinstance(data, str) else None


def socket_path(given: str | None) -> Path:
    """Return the socket of the engine that a command is for."""
    return data_folder(given, None if given else declared_here()) / SOCKET
