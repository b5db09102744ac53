"""What an engine keeps beyond its process: what it was told to serve, and what was learned."""

import logging
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from clipper.application import Application
from clipper.deploying import DeployRequest
from clipper.errors import ClipperError, StateError

from .describing import NotDescribableError, describe, restore
from .directory import DataDirectory
from .keeper import StateKeeper
from .store import Durability, StateStore, to_json

if TYPE_CHECKING:
    from clipper.engine import Engine

_log = logging.getLogger("clipper")
_URLS = ("redis://", "rediss://", "unix://")
_MODELS = "models"
_APPLICATIONS = "applications"
_REMOVED: dict[str, Any] = {"options": None, "why_not": None}  # of an application
_LEARNED = "learned"


@dataclass(frozen=True, slots=True)
class Restored:
    """What ``Engine.restore()`` did.

    Attributes
    ----------
    models, applications : tuple of str
        Those that serve again.
    missing : dict from str to str
        Those that were there before and must be deployed or created by their user, and why.
    """

    models: tuple[str, ...] = ()
    applications: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict[str, str])


def open_state(data: str | os.PathLike[str] | None, durability: Durability) -> "EngineState | None":
    """Open what an engine keeps; None: it keeps everything in memory.

    Raises
    ------
    ValueError
        If an argument is none of those that can be given.
    StateError
        If the store cannot be used, or another engine uses it.
    """
    if durability not in get_args(Durability):
        raise ValueError(
            f"durability is {durability!r}: give 'process' (feedback survives the death of the "
            "process), 'power' (and that of the machine) or 'memory' (only what was saved in time)"
        )
    if data is None:
        return None
    store: StateStore
    if isinstance(data, str) and data.startswith(_URLS):
        from .redis_store import RedisStore  # noqa: PLC0415 - an extra

        store = RedisStore(data, durability)
    elif isinstance(data, (str, os.PathLike)) and os.fspath(data):
        directory = DataDirectory(data)
        try:
            from .sqlite_store import SqliteStore  # noqa: PLC0415 - not needed to embed

            store = SqliteStore(directory, durability)
        except BaseException:
            directory.close()
            raise
    else:
        raise ValueError(f"data is {data!r}: give a directory, or 'redis://host:port/0'")
    try:
        return EngineState(store, durability)
    except BaseException:
        store.close()
        raise


class EngineState:
    """An engine's part of a store."""

    def __init__(self, store: StateStore, durability: Durability) -> None:
        self._models = store.documents(_MODELS)
        self._applications = store.documents(_APPLICATIONS)
        self._learned = store.documents(_LEARNED)
        self._set_aside: list[str] = []
        self.keeper: StateKeeper = StateKeeper(store, durability)
        self._process = os.getpid()

    def close_with(self, engine: "Engine") -> None:
        """Close it when an engine is forgotten that nobody has closed."""
        weakref.finalize(engine, _close_in, self._process, self.keeper)

    # ---- models --------------------------------------------------------------------------------

    def settle_version(self, request: DeployRequest, loaded: list[int | str]) -> None:
        """Choose a version that was not there before, either, unless it was named."""
        kept: int = self._models.get(request.name, {}).get("last", 0)
        request.settle_version(loaded if request.version is not None else [*loaded, kept])

    def note_deployed(self, request: DeployRequest, options: dict[str, Any]) -> None:
        """Remember a deployment, with all that is needed to repeat it if it can be described."""
        before = self._models.get(request.name, {})
        last = max(
            before.get("last", 0), request.version if isinstance(request.version, int) else 0
        )
        source = request.source
        why_not = None
        described = None
        if source is None or source.kind == "pickle":
            why_not = "the model was an object of that process: deploy it again"
        else:
            try:
                described = {name: describe(value) for name, value in options.items()}
            except NotDescribableError as error:
                why_not = f"of its options, {error}: deploy it again"
        self._put(_MODELS, self._models, request.name, {
            "last": last, "version": request.version, "why_not": why_not, "options": described,
            "source": None if source is None or described is None else source.reference,
            "is_deployed": True,
        })  # fmt: skip

    def note_undeployed(self, name: str) -> None:
        """Remember that a model is no longer wanted; its versions go on from where they were."""
        if name in self._models:
            self._put(_MODELS, self._models, name, {**self._models[name], "is_deployed": False})

    # ---- applications --------------------------------------------------------------------------

    def adopt(self, application: Application, options: dict[str, Any], context_bytes: int) -> None:
        """Give an application back what it has learned, and keep it. Before its first query.

        Raises
        ------
        StateError
            If the store cannot be used.
        """
        name = application.name
        signature = to_json([application._policy_text, list(application._model_names)])
        number = self._number_of(name, signature)
        if self.keeper.attach(application, number, context_bytes):
            application._confirm = self.keeper.confirm_async if self._is_journaled else None
        try:
            described = {key: describe(value) for key, value in options.items()}
            why_not = None
        except NotDescribableError as error:
            described, why_not = None, f"of its options, {error}: create it again"
        self._put(
            _APPLICATIONS, self._applications, name, {"options": described, "why_not": why_not}
        )

    def note_removed(self, name: str) -> None:
        """Remember that an application is no longer wanted; what it learned stays."""
        if name in self._applications:
            self._put(_APPLICATIONS, self._applications, name, _REMOVED)

    @property
    def _is_journaled(self) -> bool:
        return self.keeper.durability != "memory"

    def _number_of(self, name: str, signature: str) -> int:
        """Find what an application of these models and this policy has learned; or begin."""
        others: list[str] = []
        for known, learned in self._learned.items():
            if learned["name"] == name:
                if learned["signature"] == signature:
                    return int(known)
                others.append(learned["signature"])
        number = max(map(int, self._learned), default=0) + 1
        self._put(_LEARNED, self._learned, str(number), {"name": name, "signature": signature})
        if others:
            text = (
                f"application {name!r} begins with nothing learned, because it is {signature} now: "
                f"what it learned as {' and '.join(others)} is kept aside, and is used again when "
                "it is created like that"
            )
            self._set_aside.append(text)
            _log.warning("%s", text)
        return number

    # ---- restoring -----------------------------------------------------------------------------

    def restore(self, engine: "Engine") -> Restored:
        """Deploy and create again whatever was there and can be described."""
        models: list[str] = []
        applications: list[str] = []
        missing: dict[str, str] = {}
        for name, kept in list(self._models.items()):
            if name in engine._models or not kept["is_deployed"]:
                continue
            if kept["options"] is None:
                missing[name] = kept["why_not"]
                continue
            try:
                options = {key: restore(value) for key, value in kept["options"].items()}
                engine.deploy(name, kept["source"], version=kept["version"], **options)
                models.append(name)
            except (ClipperError, TypeError, ValueError, LookupError) as error:
                missing[name] = f"{type(error).__name__}: {error}"
        for name, kept in list(self._applications.items()):
            if name in engine._applications or kept == _REMOVED:
                continue
            if kept["options"] is None:
                missing[name] = kept["why_not"]
                continue
            try:
                options = {key: restore(value) for key, value in kept["options"].items()}
                engine.create_application(name, **options)
                applications.append(name)
            except (ClipperError, TypeError, ValueError, LookupError) as error:
                missing[name] = f"{type(error).__name__}: {error}"
        return Restored(tuple(models), tuple(applications), missing)

    # ---- the whole -----------------------------------------------------------------------------

    def _put(self, kind: str, kept: dict[str, Any], name: str, value: Any) -> None:
        kept[name] = value
        self.keeper.put_document(kind, name, value)

    def save(self) -> None:
        """Write everything that was learned so far.

        Raises
        ------
        StateError
            If that was not possible.
        """
        if not self.keeper.checkpoint():
            raise StateError(self.keeper.describe()["last_failure"] or "the store cannot be used")

    def describe(self) -> dict[str, Any]:
        """Return where state is kept, and all that an operator should know of it."""
        return {**self.keeper.describe(), "set_aside": list(self._set_aside)}

    def close(self) -> None:
        """Write everything, and let go of the store."""
        _close_in(self._process, self.keeper)


def _close_in(process: int, keeper: StateKeeper) -> None:
    if os.getpid() == process:  # the threads of a forked child's engine are its parent's
        keeper.close()
