"""What is different between two configurations, and how each difference is brought about."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .reading import Config
from .sections import ApplicationConfig, ModelConfig, ServerConfig, keys_of

#: A model's keys that change while its version serves.
LIVE_KEYS = frozenset({"batching", "max_queue", "replicas"})
#: A model's keys that its first version fixes: it must be undeployed to change them.
FIXED_KEYS = frozenset({"slo", "default", "priority"})
#: What a running server takes on; its other keys need a restart.
SERVER_LIVE_KEYS = frozenset({"drain", "log"})
#: Keys that do not say what the model is, but how it is brought into service.
_PASSING_KEYS = frozenset({"ready_timeout"})


_Table = TypeVar("_Table", ServerConfig, ModelConfig, ApplicationConfig)


@dataclass(slots=True)
class Difference:
    """What has to be done to come from one configuration to another, in this order.

    Attributes
    ----------
    deploy : list of ModelConfig
        New models, and new versions of those that have changed.
    adjust : list of (ModelConfig, set of str)
        Models of which only these keys have changed, which change while they serve.
    create, replace : list of ApplicationConfig
    remove : list of str
        Names of applications.
    undeploy : list of str
        Names of models.
    restart : set of str
        Keys of ``[server]`` that only a restart changes.
    refused : dict of str to set of str
        Models that stay as they are, as these of their keys cannot be changed.
    """

    deploy: list[ModelConfig] = field(default_factory=list[ModelConfig])
    adjust: list[tuple[ModelConfig, set[str]]] = field(
        default_factory=list[tuple[ModelConfig, set[str]]]
    )
    create: list[ApplicationConfig] = field(default_factory=list[ApplicationConfig])
    replace: list[ApplicationConfig] = field(default_factory=list[ApplicationConfig])
    remove: list[str] = field(default_factory=list[str])
    undeploy: list[str] = field(default_factory=list[str])
    restart: set[str] = field(default_factory=set[str])
    refused: dict[str, set[str]] = field(default_factory=dict[str, set[str]])

    def __bool__(self) -> bool:
        return any(getattr(self, part.name) for part in dataclasses.fields(self))


def changed_keys(old: _Table, new: _Table) -> set[str]:
    """Return the keys of two tables of one kind that differ; ``fingerprint`` among a model's."""
    names = set(keys_of(type(new)))
    if isinstance(new, ModelConfig):
        names.add("fingerprint")
    return {name for name in names if _differ(getattr(old, name), getattr(new, name))}


def _differ(old: Any, new: Any) -> bool:
    # Not a number differs from itself, and tables with another order of keys are written otherwise.
    return bool(old != new) and repr(old) != repr(new)


def difference(
    models: dict[str, ModelConfig],
    applications: dict[str, ApplicationConfig],
    server: ServerConfig,
    new: Config,
) -> Difference:
    """Compare what was applied with a new configuration.

    Parameters
    ----------
    models, applications, server
        What was applied.
    new : Config

    Notes
    -----
    What was deployed by other means is in neither, and stays.
    """
    found = Difference()
    for name, model in new.models.items():
        _compare_model(found, models.get(name), model)
    for name, application in new.applications.items():
        if name not in applications:
            found.create.append(application)
        elif changed_keys(applications[name], application):
            found.replace.append(application)
    found.remove = [name for name in applications if name not in new.applications]
    found.undeploy = [name for name in models if name not in new.models]
    found.restart = changed_keys(server, new.server) - SERVER_LIVE_KEYS
    return found


def _compare_model(found: Difference, old: ModelConfig | None, new: ModelConfig) -> None:
    if old is None:
        found.deploy.append(new)
        return
    changed = changed_keys(old, new) - _PASSING_KEYS
    if changed & FIXED_KEYS:
        found.refused[new.name] = changed & FIXED_KEYS
    elif changed and changed <= LIVE_KEYS:
        found.adjust.append((new, changed))
    elif changed:
        found.deploy.append(new)
