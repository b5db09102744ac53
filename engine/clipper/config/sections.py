"""The tables of a configuration, as values: ``[server]``, ``[models.*]``, ``[applications.*]``."""

# ruff: noqa: RUF009 - a key is declared by a function that makes a field, as field() itself does

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from clipper.batching import Deadline, Strategy
from clipper.cache import Cache
from clipper.engine import NO_DEFAULT
from clipper.feedback import Loss
from clipper.replicas.isolation import Isolated
from clipper.tensor import RowType

from . import kinds
from .problems import unknown_keys
from .values import (
    Reader,
    anything,
    duration,
    is_table,
    or_none,
    path,
    row_type,
    several,
    size,
    text,
    truth,
    version,
    whole,
)

_REQUIRED: Any = dataclasses.MISSING


def _key(default: Any, read: Reader, means: str) -> Any:
    """Declare a key: its default, what reads it, and what it means in a few words."""
    return dataclasses.field(default=default, metadata={"read": read, "means": means})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The table ``[server]``: the engine itself, and how it starts and ends.

    The attributes are the keys; ``docs/configuration.md`` says what each means.
    """

    data: str | None = _key(None, path, "folder for the engine's state and its socket")
    drain: float = _key(30.0, duration, "seconds for accepted queries when it ends")
    log: str = _key("info", kinds.log_level, "least level of the log's lines")
    keep_versions: int = _key(2, whole(1, 1000), "versions of a model that stay loaded")
    feedback_memory: int = _key(64 << 20, size, "memory for answers that await feedback")
    feedback_window: float = _key(600.0, duration, "how long feedback on an answer is taken")
    statistics_window: float = _key(60.0, duration, "windows of the statistics of outputs")
    zmq: str | None = _key(None, kinds.port, "address of the ZeroMQ frontend; not there yet")
    http: str | None = _key(None, kinds.port, "address of the HTTP frontend; not there yet")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A table ``[models.NAME]``: what ``Engine.deploy`` is told.

    Attributes
    ----------
    name : str
    folder : Path
        What paths are relative to, and where factories are looked for.
    fingerprint : str
        Of the source, if that is a file: it changes when the file does.

    Notes
    -----
    The other attributes are the keys; ``docs/configuration.md`` says what each means.
    """

    name: str
    folder: Path
    fingerprint: str = ""
    source: str = _key(_REQUIRED, text, "file, or factory 'package.module:function'")
    version: int | str | None = _key(None, version, "a number or name; the next one if left out")
    input: RowType | None = _key(None, row_type, "one row, such as 'float32[64]'")
    output: RowType | None = _key(None, row_type, "one row's output, such as 'int64'")
    slo: float | None = _key(None, duration, "latency objective of queries to the model itself")
    default: Any = _key(NO_DEFAULT, anything, "what it gives where the model does not answer")
    priority: int = _key(0, whole(-3, 3), "of queries to the model itself, larger is more urgent")
    replicas: int = _key(1, whole(1, 256), "copies of the model")
    where: kinds.Thread | Isolated = _key(kinds.Thread(), kinds.where, "'thread' or 'isolated'")
    device: str = _key("auto", text, "'auto', 'cpu' or 'cuda:0'")
    resources: Any = _key(None, kinds.resources, "what each replica gets")
    batching: Strategy = _key(Deadline(), kinds.batching, "how rows become batches")
    max_queue: int | None = _key(None, whole(1, 1 << 24), "requests that may wait")
    memory: int = _key(256 << 20, size, "memory for waiting rows")
    cache: Cache | None = _key(None, kinds.cache, "whether equal inputs share an answer")
    length_buckets: tuple[int, ...] | None = _key(
        None, several(whole(1, 1 << 31), "lengths"), "lengths that ragged rows are grouped by"
    )
    warmup: Any = _key(None, anything, "a typical row to warm up with, or false")
    caller_runs: bool = _key(True, truth, "whether callers may run short batches themselves")
    ready_timeout: float = _key(60.0, duration, "seconds to be loaded and warm in")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationConfig:
    """A table ``[applications.NAME]``: what ``Engine.create_application`` is told.

    Attributes
    ----------
    name : str
    folder : Path
        Where factories are looked for.

    Notes
    -----
    The other attributes are the keys; ``docs/configuration.md`` says what each means.
    """

    name: str
    folder: Path
    models: tuple[str, ...] = _key(_REQUIRED, several(text, "models"), "names of its models")
    slo: float | None = _key(_REQUIRED, or_none(duration), "objective; false: best effort")
    policy: Any = _key(None, kinds.policy, "which models are asked, and what their answers make")
    default: Any = _key(NO_DEFAULT, anything, "what it gives where no answer can be made")
    min_confidence: float | None = _key(None, kinds.confidence, "below it the default is given")
    priority: int = _key(0, whole(-3, 3), "of its queries, larger is more urgent")
    context_memory: int = _key(64 << 20, size, "memory for what is learned of contexts")
    loss: Loss | str | None = _key(None, kinds.loss, "how feedback judges outputs by labels")


_Section = TypeVar("_Section", ServerConfig, ModelConfig, ApplicationConfig)


def keys_of(section: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """Return the keys of a table, by name; not what else is known of it."""
    return {field.name: field for field in dataclasses.fields(section) if field.metadata}


def read_section(
    section: type[_Section],
    table: Any,
    folder: Path,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[_Section | None, list[str]]:
    """Read one table; returns it, unless there are problems, and those.

    ``given`` are its attributes that are no keys.
    """
    keys = keys_of(section)
    if not is_table(table):
        return None, [f"is {table!r}: make it a table"]
    problems = unknown_keys(table, keys)
    values: dict[str, Any] = {}
    for name, key in keys.items():
        if name in table:
            try:
                values[name] = key.metadata["read"](table[name], folder)
            except ValueError as error:
                problems.append(f"{name}: {error}")
        elif key.default is dataclasses.MISSING:
            problems.append(f"{name} is missing: give {key.metadata['means']}")
    return (None if problems else section(**given, **values)), problems
