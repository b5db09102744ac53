"""What the ``clipper`` command may ask of an engine."""

import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipper.config import ConfigError, deploy_model, read_model
from clipper.config.sources import wrong_source
from clipper.errors import ClipperError
from clipper.model import Model

from .host import Host
from .messages import VERSION, MessageError
from .outputs import follow
from .plain import to_plain

if TYPE_CHECKING:
    from clipper.engine import Engine

#: Commands that change something, which is worth a line in the log.
CHANGING = frozenset({"deploy", "link", "rollback", "scale", "stop", "undeploy"})


class Commands:
    """Runs commands on one engine; each public method is one, its parameters are what it takes.

    Any thread. What a method raises goes to whoever asked.
    """

    def __init__(self, engine: "Callable[[], Engine | None]", host: Host) -> None:
        self._find = engine
        self._host = host

    def run(self, name: Any, given: Any) -> Any:
        """Run a command by name; an iterator of parts if it is one to follow.

        Raises
        ------
        MessageError
            If there is no such command, or it takes something else.
        """
        known = {key for key in vars(Commands) if not key.startswith("_")} - {"run"}
        if not isinstance(name, str) or name not in known or not isinstance(given, dict):
            raise MessageError(f"no command {name!r} is known here: there are {sorted(known)}")
        command = getattr(self, name)
        try:
            inspect.signature(command).bind(**given)
        except TypeError as error:
            raise MessageError(f"command {name}: {error}") from None
        return command(**given)

    @property
    def _engine(self) -> "Engine":
        engine = self._find()
        if engine is None:
            raise ClipperError("the engine has ended")
        return engine

    # ---- to look ------------------------------------------------------------------------------

    def hello(self) -> dict[str, Any]:
        """Who answers, and whether it is ready."""
        host = self._host
        return {"version": VERSION, "pid": os.getpid(), "state": host.state,
                "ready": host.is_ready, "answered": host.answered}  # fmt: skip

    def ps(self) -> dict[str, Any]:
        """All models and applications, in a few words each."""
        whole = self._engine.describe()
        return {
            **self.hello(),
            "models": [_model_in_brief(model) for model in whole["models"].values()],
            "applications": [_in_brief(one) for one in whole["applications"].values()],
        }

    def describe(self, name: str | None = None) -> Any:
        """Everything that is known, of one model or application or of the whole engine."""
        of = self._engine if name is None else self._engine.application(_name(name, "name"))
        return to_plain(of.describe())

    def logs(self, model: str, lines: int = 20, following: bool = False) -> Iterator[Any]:
        """Tell what the workers of a model's versions have printed, and go on to print."""
        if not isinstance(lines, int) or lines < 0:
            raise MessageError(f"lines is {lines!r}: give 0 or more")
        return follow(self._engine.model(_name(model, "model")), lines, bool(following))

    def errors(self, model: str) -> list[str]:
        """Tracebacks of a model's recent errors."""
        return self._engine.model(_name(model, "model")).errors

    # ---- to change ----------------------------------------------------------------------------

    def deploy(self, name: str, model: dict[str, Any], folder: str) -> dict[str, Any]:
        """Deploy a model as a table of a configuration would."""
        wanted = _name(name, "name")
        try:
            config = read_model(wanted, model, Path(_name(folder, "folder")))
        except ConfigError as error:
            texts = [text.removeprefix(f"[models.{wanted}] ") for text in error.problems]
            raise ConfigError("deploy", texts) from None
        wrong = wrong_source(config)
        if wrong is not None:
            raise ConfigError("deploy", [f"source: {wrong}"])
        deploy_model(self._engine, config)
        return {"model": wanted, "version": self._engine.model(wanted).version}

    def undeploy(self, name: str) -> dict[str, Any]:
        """Take a model out of service; names the applications that it leaves without it."""
        engine, model = self._engine, _name(name, "name")
        engine.undeploy(model)
        linking = [key for key, one in engine.describe()["applications"].items()
                   if model in one["models"]]  # fmt: skip
        return {"model": model, "linked_by": linking}

    def link(self, application: str, model: str) -> dict[str, Any]:
        """Link a model to an application."""
        linking = self._engine.application(_name(application, "application"))
        if isinstance(linking, Model):
            raise ClipperError(f"{application!r} is a model: name an application")
        _able(linking, "link", "link models to applications that serve")(_name(model, "model"))
        return {"application": linking.name, "models": list(linking.describe()["models"])}

    def scale(self, model: str, replicas: int) -> dict[str, Any]:
        """Give a model another number of replicas."""
        scaled = self._engine.model(_name(model, "model"))
        _able(scaled, "scale", "add and remove replicas")(replicas)
        return {"model": scaled.name, "replicas": replicas}

    def rollback(self, model: str) -> dict[str, Any]:
        """Let a model's former version answer again."""
        rolled = self._engine.model(_name(model, "model"))
        return {"model": rolled.name, "version": rolled.rollback()}

    def stop(self) -> dict[str, Any]:
        """End the engine; it answers what it has accepted first."""
        self._host.stop()
        return {"pid": os.getpid()}

    # ---- to ask -------------------------------------------------------------------------------

    def predict(
        self,
        application: str,
        input: Any,
        context: str | None = None,
        deadline: float | None = None,
    ) -> dict[str, Any]:
        """Ask for one prediction."""
        asked = self._engine.application(_name(application, "application"))
        made = asked.predict(input, context=context, deadline=deadline)
        names = ("output", "confidence", "is_default", "why", "query_id", "models", "missing")
        return {name: to_plain(getattr(made, name)) for name in (*names, "latency")}


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise MessageError(f"{what} is {value!r}: give a name")
    return value


def _able(thing: object, method: str, what: str) -> Callable[..., Any]:
    found: Callable[..., Any] | None = getattr(thing, method, None)
    if found is None:
        raise ClipperError(f"this engine cannot {what}: deploy a new version, or start it anew")
    return found


def _in_brief(one: dict[str, Any]) -> dict[str, Any]:
    keys = ("name", "models", "slo", "rows", "answered", "in_time", "causes")
    brief = {key: one[key] for key in keys}
    brief |= {"policy": one["policy"]["text"], "p99": one["latency"]["p99"]}
    return to_plain(brief)  # type: ignore[no-any-return]


def _model_in_brief(model: dict[str, Any]) -> dict[str, Any]:
    current = model["versions"].get(str(model["version"]), {})
    workers = current.get("workers", [])
    replicas = current.get("replicas", [])
    serving = sum(worker["state"] == "serving" for worker in workers)
    return to_plain(  # type: ignore[no-any-return]
        {
            "name": model["name"],
            "version": model["version"],
            "versions": list(model["versions"]),
            "where": "isolated" if workers else "thread",
            "replicas": len(replicas),
            "serving": serving if workers else len(replicas),
            "batching": current.get("batching"),
            "waiting": current.get("waiting_rows", 0),
            "rows": sum(replica["rows"] for replica in replicas),
            "batches": sum(replica["batches"] for replica in replicas),
            "errors": sum(current.get("errors", {}).values()),
            "restarts": sum(worker["restarts"] for worker in workers),
            "pids": [worker["pid"] for worker in workers],
        }
    )
