"""Reading a configuration: TOML in, values and every problem out."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipper.cascade import Cascade
from clipper.pipelines import Pipeline
from clipper.shadow import Shadow

from .problems import ConfigError, nearest, unknown_keys
from .sections import ApplicationConfig, ModelConfig, ServerConfig, read_section
from .sources import fingerprint, full_source
from .values import is_table

_TABLES = ("server", "models", "applications")
_MOST_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration that has been read and checked.

    Attributes
    ----------
    file : str
        Where it comes from, for messages.
    server : ServerConfig
    models, applications : dict
        By name, in the order of the file.
    """

    file: str
    server: ServerConfig
    models: Mapping[str, ModelConfig]
    applications: Mapping[str, ApplicationConfig]


def read_config(path: str | os.PathLike[str]) -> Config:
    """Read a ``clipper.toml``.

    Parameters
    ----------
    path : path
        The file. Paths in it are relative to its folder.

    Raises
    ------
    ConfigError
        If it cannot be read or used, with all that is wrong with it.
    """
    file = Path(path)
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ConfigError(str(path), [f"is longer than {_MOST_BYTES >> 20} MiB"])
        tables = tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror or error}"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(str(path), [f"is no TOML: {error}"]) from None
    return parse_config(tables, file.absolute().parent, str(path))


def parse_config(tables: Mapping[str, Any], folder: Path, file: str = "configuration") -> Config:
    """Check what TOML has made of a configuration; as :func:`read_config` otherwise."""
    problems = unknown_keys(tables, _TABLES)
    server, wrong = read_section(ServerConfig, tables.get("server", {}), folder)
    problems += [f"[server] {problem}" for problem in wrong]
    models: dict[str, ModelConfig] = {}
    for name, table in _tables_of(tables, "models", problems).items():
        try:
            models[name] = read_model(name, table, folder)
        except ConfigError as error:
            problems += error.problems
    applications: dict[str, ApplicationConfig] = {}
    for name, table in _tables_of(tables, "applications", problems).items():
        made, wrong = read_section(
            ApplicationConfig, table, folder, {"name": name, "folder": folder}
        )
        problems += [f"[applications.{name}] {problem}" for problem in wrong]
        if made is not None:
            applications[name] = made
    named = _tables_of(tables, "models", [])
    for application in applications.values():
        problems += [f"[applications.{application.name}] {problem}"
                     for problem in _wrong_links(application, named)]  # fmt: skip
    if problems or server is None:
        raise ConfigError(file, problems)
    return Config(file, server, models, applications)


def read_model(name: str, table: Any, folder: Path) -> ModelConfig:
    """Read one model's table.

    Raises
    ------
    ConfigError
        If it cannot be used; its problems name the table.
    """
    made, wrong = read_section(
        ModelConfig, table, folder,
        {"name": name, "folder": folder, "fingerprint": fingerprint(table, folder)},
    )  # fmt: skip
    if made is None:
        raise ConfigError("configuration", [f"[models.{name}] {problem}" for problem in wrong])
    return full_source(made)


def _tables_of(
    tables: Mapping[str, Any], name: str, problems: list[str]
) -> Mapping[str, Mapping[str, Any]]:
    found = tables.get(name, {})
    if not is_table(found):
        problems.append(f"{name} is {found!r}: write tables [{name}.NAME]")
        return {}
    if "" in found:
        problems.append(f"[{name}] has a table without a name: give it one")
    return found


def _wrong_links(application: ApplicationConfig, models: Mapping[str, Any]) -> list[str]:
    wrong = [f"models: there is no [models.{name}]: {nearest(name, models)}"
             for name in application.models if name not in models]  # fmt: skip
    if application.name in models:
        wrong.append("a model has this name too: an application needs a name of its own")
    if not application.models:
        wrong.append("models is empty: name at least one")
    if len(set(application.models)) != len(application.models):
        wrong.append(f"models: {list(application.models)!r} names one twice")
    if application.policy is None and len(application.models) > 1:
        wrong.append(
            f"policy is missing: there are {len(application.models)} models, say which are asked"
        )
    return wrong or _wrong_policy(application)


def _wrong_policy(application: ApplicationConfig) -> list[str]:
    """Let a policy say whether it is one for these models, as far as it can without them."""
    policy, names = application.policy, list(application.models)
    if isinstance(policy, Shadow):
        unknown = [name for name in policy.models if name not in names]
        return [f"policy: shadow {name!r} is none of its models" for name in unknown]
    if isinstance(policy, Pipeline):
        odd = set(policy.stages) ^ set(names)
        return [f"policy: stages and models differ in {sorted(odd)}"] if odd else []
    if isinstance(policy, (Cascade, str)) or policy is None:
        return []
    try:
        policy.order(names)
    except ValueError as error:
        return [f"policy: {error}"]
    return []
