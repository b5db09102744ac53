"""Bringing an engine to what a configuration says, while it serves."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clipper.errors import ClipperError
from clipper.replicas.isolation import Isolated

from .differences import Difference, difference
from .problems import ConfigError
from .reading import Config
from .sections import ApplicationConfig, ModelConfig, ServerConfig
from .sources import imported, open_source, wrong_source

if TYPE_CHECKING:
    from clipper.engine import Engine

_log = logging.getLogger("clipper")


@dataclass(slots=True)
class Outcome:
    """What was done, and what could not be done; a sentence each."""

    done: list[str] = field(default_factory=list[str])
    failed: list[str] = field(default_factory=list[str])


class Applier:
    """Brings one engine to one configuration after another, without losing a query.

    New models and versions are warm before anything asks them; applications change over in one
    step; what is not wanted any more goes last, when its queries are answered. What fails leaves
    what served before, and is tried again with the next configuration. One thread at a time.

    Parameters
    ----------
    engine : Engine
    server : ServerConfig
        With which it was made.
    """

    def __init__(self, engine: "Engine", server: ServerConfig) -> None:
        self._engine = engine
        self._server = server
        self._models: dict[str, ModelConfig] = {}
        self._applications: dict[str, ApplicationConfig] = {}
        self._outcome = Outcome()

    def apply(self, config: Config) -> Outcome:
        """Apply the difference to what was applied before.

        Raises
        ------
        ConfigError
            If a source is not there; nothing was changed then.
        """
        check_sources(config)
        found = difference(self._models, self._applications, self._server, config)
        self._outcome = Outcome()
        self._bring_models(found)
        self._bring_applications(found)
        for name in found.undeploy:
            if self._step(f"model {name} undeployed", self._undeploy, name):
                del self._models[name]
        for name, keys in found.refused.items():
            self._failed(
                f"model {name}: {', '.join(sorted(keys))} changed, which its first version fixes: "
                "give an application of it that value, or restart"
            )
        for key in sorted(found.restart):
            self._failed(f"[server] {key} changed: only a restart changes it")
        return self._outcome

    def _bring_models(self, found: Difference) -> None:
        for model in found.deploy:
            self._bring(model, f"model {model.name} {_places(model)}", deploy_model)
        for model, keys in found.adjust:
            what = f"model {model.name}: {', '.join(sorted(keys))} changed"
            self._bring(model, what, _adjust, keys)

    def _bring(self, model: ModelConfig, what: str, do: Callable[..., Any], *more: Any) -> None:
        if self._step(what, do, self._engine, model, *more):
            self._models[model.name] = model

    def _bring_applications(self, found: Difference) -> None:
        for application in [*found.create, *found.replace]:
            verb = "created" if application in found.create else "replaced"
            what = f"application {application.name} of {', '.join(application.models)} {verb}"
            if self._step(what, create_application, self._engine, application):
                self._applications[application.name] = application
        for name in found.remove:
            if self._step(f"application {name} removed", self._remove, name):
                del self._applications[name]

    def _undeploy(self, name: str) -> None:
        if name in self._engine.describe()["models"]:  # or by hand already
            self._engine.undeploy(name)

    def _remove(self, name: str) -> None:
        if name in self._engine.describe()["applications"]:
            self._engine.remove_application(name)

    def _step(self, what: str, do: Callable[..., Any], *arguments: Any) -> bool:
        began = time.monotonic()
        try:
            do(*arguments)
        except (ClipperError, ValueError, TypeError) as error:
            self._failed(f"{what.split(' ', 2)[0]} {what.split(' ', 2)[1]}: {error}")
            return False
        self._outcome.done.append(what)
        _log.info("%s (%.3g s)", what, time.monotonic() - began)
        return True

    def _failed(self, what: str) -> None:
        self._outcome.failed.append(what)
        _log.error("%s", what)


def check_sources(config: Config) -> None:
    """Look for every model's source without loading it; ConfigError names those that are not there.

    Factories are looked for where they will be imported; the packages around them are imported.
    """
    wrong = {name: wrong_source(model) for name, model in config.models.items()}
    problems = [f"[models.{name}] source: {text}" for name, text in wrong.items() if text]
    if problems:
        raise ConfigError(config.file, problems)


def deploy_model(engine: "Engine", model: ModelConfig) -> None:
    """Deploy what a model's table says; raises what ``Engine.deploy`` does."""
    engine.deploy(
        model.name, open_source(model), version=model.version, input=model.input,
        output=model.output, slo=model.slo, default=model.default, priority=model.priority,
        replicas=model.replicas,
        where=model.where if isinstance(model.where, Isolated) else "thread",
        device=model.device, batching=model.batching, max_queue=model.max_queue,
        memory=model.memory, cache=model.cache or False, length_buckets=model.length_buckets,
        warmup=model.warmup, caller_runs=model.caller_runs, ready_timeout=model.ready_timeout,
        **({} if model.resources is None else {"resources": model.resources}),
    )  # fmt: skip


def create_application(engine: "Engine", application: ApplicationConfig) -> None:
    """Create what an application's table says, in place of one of its name.

    Raises what ``Engine.create_application`` does.
    """
    policy, loss = application.policy, application.loss
    if isinstance(policy, str):
        policy = imported(policy, application.folder)()
    if isinstance(loss, str):
        loss = imported(loss, application.folder)
    engine.create_application(
        application.name, models=application.models, slo=application.slo, policy=policy,
        default=application.default, min_confidence=application.min_confidence,
        priority=application.priority, context_memory=application.context_memory, loss=loss,
        replace=True,
    )  # fmt: skip


def _adjust(engine: "Engine", model: ModelConfig, keys: set[str]) -> None:
    """Change a model while its version serves, or deploy a new one where that is not possible."""
    serving = engine.model(model.name)
    scale = getattr(serving, "scale", None)
    needs_version = "replicas" in keys and scale is None
    if needs_version or ("max_queue" in keys and model.max_queue is None):
        deploy_model(engine, model)
        return
    if "batching" in keys:
        try:
            serving.set_batching(model.batching)
        except ValueError:  # larger batches than the version that serves has memory for
            deploy_model(engine, model)
            return
    if "max_queue" in keys and model.max_queue is not None:
        serving.set_max_queue(model.max_queue)
    if "replicas" in keys and scale is not None:
        scale(model.replicas)


def _places(model: ModelConfig) -> str:
    where = "isolated" if isinstance(model.where, Isolated) else "on threads"
    return f"serves, {model.replicas} {'replica' if model.replicas == 1 else 'replicas'} {where}"
