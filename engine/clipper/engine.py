"""The engine: deploys models, makes applications of them, and closes cleanly."""

import asyncio
import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from ._core.application import ModelCore
from ._core.serving import EngineCore
from .application import Application
from .batching import Strategy, to_strategy
from .cache import Cache, to_cache
from .cascade import Cascade
from .deploying import DeployRequest, deploy
from .errors import (
    AlreadyExistsError,
    ApplicationNotFoundError,
    ModelNotFoundError,
)
from .feedback import Loss, LossFunction, LossName, to_loss
from .linking import check_links, check_objective, to_context_bytes
from .model import Deployment, Model
from .model_protocol import ModelAdapter
from .pipelines import Pipeline
from .policies import BoundPolicy, NativePolicy, Policy
from .policies.combining import FunctionCombiner
from .policies.policy_states import PolicyStates
from .policies.python_policy import bind_python_policy
from .replicas.isolation import Isolated
from .resources import Resources
from .resources.nvml import read_inventory
from .shadow import Shadow, check_shadow, split_shadow
from .sizes import to_bytes
from .stage_binding import bind_stages
from .state import Durability, Restored, open_state
from .tensor import RowType

if TYPE_CHECKING:
    from .admin.server import AdminServer

_log = logging.getLogger("clipper")


class _NoDefault:
    def __repr__(self) -> str:
        return "no default"


NO_DEFAULT: Any = _NoDefault()

_open_engines: "weakref.WeakSet[Engine]" = weakref.WeakSet()


class Engine:
    """Serves models inside this process: no ports, no servers.

    Parameters
    ----------
    data : path or str, optional
        Where what is learned and deployed lasts: a directory, which is made, or
        ``"redis://host:port/0"``. Without it everything is in memory, and goes with the process.
    durability : {"process", "power", "memory"}, default "process"
        What feedback survives once its call has returned: "process": that this process is killed;
        "power": that the machine loses power, too; "memory": nothing, as it is saved every 10 s
        and on close.
    keep_versions : int, default 2
        How many versions of a model stay loaded, the current one included: rollback goes to
        those.
    feedback_memory : int or str, default "64MiB"
        Bytes for what is kept of answered queries until their feedback comes, of applications
        that take any; the oldest make room. Taken from the system as it fills.
    feedback_window : float, default 600
        Seconds for which feedback on an answer is taken.
    statistics_window : float, default 60
        Seconds that statistics of a model's outputs are gathered for before they are compared with
        those of its first ten windows; longer where fewer than 1,000 rows came.

    Notes
    -----
    Safe to use from any number of threads and event loops. An engine cannot be used in a forked
    child: make one in each process. Use it as a context manager, or ``close()`` it; what is
    still open at exit is closed then.

    Raises
    ------
    DataDirectoryInUseError
        If another engine, in any process, has the data directory.
    StateError
        If state cannot be kept there, with the reason.
    """

    def __init__(
        self,
        *,
        data: str | os.PathLike[str] | None = None,
        durability: Durability = "process",
        keep_versions: int = 2,
        feedback_memory: int | str = "64MiB",
        feedback_window: float = 600.0,
        statistics_window: float = 60.0,
    ) -> None:
        if keep_versions < 1:
            raise ValueError(f"keep_versions is {keep_versions}: give 1 or more")
        if not 0.0 < statistics_window < 1e9:
            raise ValueError(f"statistics_window is {statistics_window!r}: give seconds above 0")
        self._core = EngineCore(to_bytes(feedback_memory), feedback_window)
        self._core.statistics_window_ns = int(statistics_window * 1e9)
        self._keep_versions = keep_versions
        self._models: dict[str, Model] = {}
        self._model_cores: dict[str, ModelCore] = {}
        self._specs: dict[str, tuple[RowType, RowType]] = {}  # input and output of each place
        self._applications: dict[str, Application] = {}
        self._lock = threading.RLock()
        self._deploying: set[str] = set()
        self._state = open_state(data, durability)
        self._reaper = _start_reaper(self._core)
        _open_engines.add(self)
        # An engine that is dropped without close() does not leave its threads behind.
        if self._state is not None:
            self._state.close_with(self)
        weakref.finalize(self, self._core.shut_down)
        self._admins: list[AdminServer] = []

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Make an engine of the models and applications that a ``clipper.toml`` declares.

        Its ports and its socket are for ``clipper serve``: an embedded engine opens none.

        Parameters
        ----------
        path : path
            Paths in the file are relative to its folder.

        Raises
        ------
        clipper.config.ConfigError
            If the file cannot be used, with all that is wrong with it.
        DeployError
            If a model or application cannot be brought into service; then no engine is left.
        """
        from .config.starting import make_engine  # noqa: PLC0415 - not needed to embed

        return make_engine(cls, path)

    # ---- models -------------------------------------------------------------------------------

    def deploy(
        self,
        name: str,
        model: ModelAdapter | Callable[[Any], Any] | str | os.PathLike[str],
        *,
        version: int | str | None = None,
        input: RowType | None = None,
        output: RowType | None = None,
        slo: float | None = None,
        default: Any = NO_DEFAULT,
        priority: int = 0,
        replicas: int = 1,
        where: Literal["thread", "isolated"] | Isolated = "thread",
        device: str = "auto",
        resources: Resources | None = None,
        batching: Strategy | str = "deadline",
        max_queue: int | None = None,
        memory: int | str = "256MiB",
        cache: Cache | bool = False,
        length_buckets: Sequence[int] | None = None,
        warmup: Any = None,
        caller_runs: bool = True,
        ready_timeout: float = 60.0,
    ) -> Model:
        """Load a model, warm it up, and let it answer from then on.

        Parameters
        ----------
        name : str
            The model's name. A name that is deployed already gets a new version, which becomes
            current once it is warm; no query is lost.
        model : ModelAdapter or callable
            An adapter from ``clipper_adapters``, or any function from a batch of n rows, an array
            of shape ``(n, *input.shape)``, to n outputs. Ragged rows come as :class:`Ragged`,
            bytes and text as lists; with several inputs it is called with one keyword for each, and
            with several outputs it returns a dict. Isolated replicas also take the name of a
            factory that they import, ``"package.module:function"``, and files: ``.onnx``, ``.pt2``,
            TorchScript.
        version : int or str, optional
            One more than the largest number so far, if not given.
        input, output : Tensor or dict of Tensor, optional
            One row of each, without the batch axis. Adapters know theirs; the input of a plain
            callable is read off ``warmup``, its output off the first run of it.
        slo : float, optional
            Latency objective in seconds for ``Model.predict``; best effort if not given. Fixed by
            a model's first version.
        default : optional
            Output when the model does not answer in time; without one ``predict`` raises. Fixed by
            a model's first version.
        priority : int, default 0
            Of the queries asked of the model itself, from -3 to 3; larger is more urgent. Fixed by
            a model's first version. Applications have their own.
        replicas : int, default 1
            Copies of the model, each with its own thread.
        where : {"thread", "isolated"} or Isolated, default "thread"
            Where replicas run: on threads of this process, or each in a process of its own.
        device : str, default "auto"
            "auto", "cpu", "cuda:<index>" or a GPU's UUID. "auto" is a GPU for adapters that can use
            one here, and the CPU for plain callables.
        resources : Resources, optional
            What each replica may use: CPUs, threads, memory, GPU memory. Callers then never run the
            model on their own threads.
        batching : Fixed, Aimd, Quantile, Deadline or str, default "deadline"
            How rows become batches.
        max_queue : int, optional
            Requests that may wait, 16,384 if not given; one more is refused at once.
        memory : int or str, default "256MiB"
            Bytes for waiting rows.
        cache : bool or Cache, default False
            Whether equal inputs are answered without the model: True, or ``Cache(ttl, bytes)``. For
            models that always answer the same input the same.
        length_buckets : sequence of int, optional
            Lengths, rising: ragged rows up to the same length, by their first ragged input, form
            batches of their own, so that padding is small. Adapters that pad know theirs; ``()``:
            all together.
        warmup : array_like, bytes, str, dict of those, or False, optional
            One typical row to warm the model up with; adapters know one. Without any the engine
            never makes inputs up: batches then start at 1 and grow as the model shows its speed.
        caller_runs : bool, default True
            Whether a caller that finds the model idle may run a short batch on its own thread.
        ready_timeout : float, default 60
            Seconds until the model must be loaded and warm.

        Returns
        -------
        Model
            Itself an application of one model.

        Raises
        ------
        DeployError
            If the model cannot be loaded, fails its warm-up, is not ready in time, or what its
            replicas need is not free, with what was. What served before still does.
        AlreadyExistsError
            If this version is loaded already.
        TypeError, ValueError
            If an argument cannot be used, with what to give instead.
        """
        self._core.check_usable()
        request = DeployRequest.checked(
            name, model, version=version, input=input, output=output, slo=slo,
            priority=priority, replicas=replicas,
            where=where, device=device, resources=resources,
            batching=to_strategy(batching), max_queue=max_queue,
            memory=memory, cache=to_cache(cache), length_buckets=length_buckets,
            warmup=warmup, caller_runs=caller_runs, ready_timeout=ready_timeout,
        )  # fmt: skip
        with self._lock:
            if name in self._deploying:
                raise AlreadyExistsError(
                    f"model {name!r} is being deployed by another thread: wait for it"
                )
            existing = self._models.get(name)
            loaded = [] if existing is None else existing.versions
            if self._state is None:
                request.settle_version(loaded)
            else:
                self._state.settle_version(request, loaded)
            if existing is None and name in self._applications:
                raise AlreadyExistsError(
                    f"an application is called {name!r}: a model needs a name of its own"
                )
            self._deploying.add(name)
        try:
            deployment = deploy(self._core, request, existing)
            made = self._adopt(request, deployment, existing, default)
            if self._state is not None:
                self._state.note_deployed(request, _options_of(request, default))
            return made
        finally:
            self._deploying.discard(name)

    async def deploy_async(
        self,
        name: str,
        model: ModelAdapter | Callable[[Any], Any] | str | os.PathLike[str],
        **options: Any,
    ) -> Model:
        """Deploy without blocking the event loop; parameters and errors are those of ``deploy``."""
        return await asyncio.to_thread(self.deploy, name, model, **options)

    def model(self, name: str) -> Model:
        """Return a deployed model.

        Raises
        ------
        ModelNotFoundError
            If there is none of this name.
        """
        try:
            return self._models[name]
        except KeyError:
            raise ModelNotFoundError(
                f"no model {name!r} is deployed: there are {sorted(self._models)}"
            ) from None

    def undeploy(self, name: str, *, timeout: float = 10.0) -> None:
        """Take a model out of service: queries that were accepted are answered first.

        Applications that link it go on without it; what they ask of it is then missing, with cause
        ``NO_REPLICA``.

        Parameters
        ----------
        name : str
        timeout : float, default 10
            Seconds to wait for queries that are under way.

        Raises
        ------
        ModelNotFoundError
            If there is none of this name.
        """
        self._core.check_usable()
        with self._lock:
            model = self.model(name)
            del self._models[name]
            del self._applications[name]
        _retire(model._remove_all(), timeout)
        if self._state is not None:
            self._state.note_undeployed(name)

    # ---- applications -------------------------------------------------------------------------

    def create_application(
        self,
        name: str,
        *,
        models: Sequence[str],
        slo: float | None,
        policy: Policy | Cascade | Pipeline | Shadow | None = None,
        default: Any = NO_DEFAULT,
        min_confidence: float | None = None,
        priority: int = 0,
        context_memory: int | str = "64MiB",
        loss: Loss | LossName | LossFunction | None = None,
        replace: bool = False,
    ) -> Application:
        """Make an application of deployed models.

        Parameters
        ----------
        name : str
        models : sequence of str
            Names of deployed models with equal inputs and outputs; those of a pipeline must fit
            one another instead.
        slo : float or None
            Seconds within which each query shall be answered; None: best effort.
        policy : Policy, Cascade, Pipeline or Shadow, optional
            A policy of ``clipper.policies``, such as ``Exp3()`` or ``MajorityVote()``, an object of
            your own as :class:`clipper.policies.PythonPolicy` says, or stages.
            Which models are asked, and what their answers make. Needed for several models.
        default : optional
            The output when no answer can be made in time, anything, even None. Without one
            ``predict`` raises instead.
        min_confidence : float, optional
            In [0, 1]; below it the default is given.
        priority : int, default 0
            Of its queries unless they say otherwise, from -3 to 3; larger is more urgent. Where a
            model is asked for more than it can answer, the urgent go first, and each priority that
            waits gets a tenth of the time nevertheless.
        context_memory : int or str, default "64MiB"
            Bytes for what the policy learns of each context, at least 64 KiB. What does not fit
            is forgotten, beginning with the contexts that were not asked for longest.
        loss : Loss, {"zero_one", "absolute", "squared", "log"} or callable, optional
            How feedback judges outputs by labels, from 0 (right) to 1; a function of output and
            label runs in Python, once for each. ``"zero_one"`` if not given. With a loss given,
            feedback is taken and counted even if the policy learns nothing.
        replace : bool, default False
            Whether an application of this name makes way, in one step. It still answers those who
            hold it, but what it has learned goes with it.

        Returns
        -------
        Application

        Raises
        ------
        ModelNotFoundError
            If a model is not deployed.
        AlreadyExistsError
            If something of this name exists.
        ValueError
            If the models do not fit together, or the objective is below what a model takes for a
            single row; the message has the measured figure.
        """
        self._core.check_usable()
        options: dict[str, Any] = {
            "models": list(models), "slo": slo, "policy": policy, "min_confidence": min_confidence,
            "priority": priority, "context_memory": context_memory, "loss": loss,
            **({} if default is NO_DEFAULT else {"default": default}),
        }  # fmt: skip
        policy, models, behind = split_shadow(policy, list(models))
        linked = [self.model(model) for model in models]
        shadows = [self.model(model) for model in behind]
        judged_by = to_loss(loss)
        check_links(name, linked, slo=slo, policy=policy, min_confidence=min_confidence)
        with self._lock:
            if name in (self._models if replace else self._applications):
                raise AlreadyExistsError(
                    f"there is a model or application {name!r} already: choose another name"
                )
            plan = bind_stages(policy, linked, is_judged=loss is not None)
            bound: BoundPolicy | None = None
            states: tuple[object, tuple[str, ...], PolicyStates | None] | None = None
            if isinstance(policy, NativePolicy):
                bound = policy.order(list(models))
                if bound.combine is not None:
                    states = (FunctionCombiner(bound.combine), tuple(models), None)
            elif policy is not None and plan is None:
                bound, kept = bind_python_policy(policy)
                states = (policy, tuple(models), kept)
            application = Application(
                self._core, name, [self._model_cores[model] for model in models],
                linked[0].input if plan is None else plan.input,
                linked[0].output if plan is None else plan.output,
                policy=bound, plan=plan, slo=slo,
                has_default=default is not NO_DEFAULT, default=default,
                min_confidence=min_confidence, priority=priority,
                context_bytes=to_context_bytes(context_memory), policy_states=states,
            )  # fmt: skip
            for shadow in shadows:
                check_shadow(shadow, application.input, application.output)
                application.add_shadow(self._model_cores[shadow.name], shadow.name)
            application.set_loss(judged_by)
            application._engine = self  # which lives as long as somebody may ask it
            application._slo = slo
            application._model_names = tuple(models)
            application._policy_text = "one model" if policy is None else repr(policy)
            if self._state is not None:
                self._state.adopt(application, options, to_context_bytes(context_memory))
            self._applications[name] = application
            return application

    def application(self, name: str) -> Application:
        """Return an application, or a model as the application that it is.

        Raises
        ------
        ApplicationNotFoundError
            If there is none of this name.
        """
        try:
            return self._applications[name]
        except KeyError:
            raise ApplicationNotFoundError(
                f"no application {name!r} exists: there are {sorted(self._applications)}"
            ) from None

    def remove_application(self, name: str) -> None:
        """Forget an application. It still answers those who hold it; its models stay.

        Raises
        ------
        ApplicationNotFoundError
            If there is none of this name; models are undeployed instead.
        """
        self._core.check_usable()
        with self._lock:
            if isinstance(self.application(name), Model):
                raise ApplicationNotFoundError(f"{name!r} is a model: undeploy it")
            del self._applications[name]
            if self._state is not None:
                self._state.note_removed(name)

    # ---- the whole ----------------------------------------------------------------------------

    def restore(self) -> Restored:
        """Deploy and create again what the engine that kept its state here before had.

        Models that were named, by factory or file, and applications of models and policies that
        come with clipper are restored with their options. Functions and objects live in their
        process only: deploy them under their names, and what was learned of them is there.

        Returns
        -------
        Restored
            What serves again, and what is missing and why.

        Raises
        ------
        ValueError
            If this engine keeps no state.
        """
        self._core.check_usable()
        if self._state is None:
            raise ValueError("this engine keeps no state: make it with Engine(data=...)")
        return self._state.restore(self)

    def save(self) -> None:
        """Write everything that was learned so far; without ``data`` there is nothing to do.

        Happens by itself every 10 s, and when the engine is closed.

        Raises
        ------
        StateError
            If it cannot be written, with the reason.
        """
        self._core.check_usable()
        if self._state is not None:
            self._state.save()

    def open_admin(self, path: str | os.PathLike[str]) -> "AdminServer":
        """Let the ``clipper`` command see and change this engine, over a Unix socket.

        Only processes of the same user, and root's, are heard. It ends with the engine.

        Parameters
        ----------
        path : path
            The socket, such as ``"state/engine.sock"``: ``clipper ps --data state`` finds it.

        Raises
        ------
        AlreadyExistsError
            If another engine listens there.
        OSError
            If the socket cannot be made.
        """
        from .admin.server import AdminServer  # noqa: PLC0415 - not needed to embed

        self._core.check_usable()
        server = AdminServer(self, path)
        self._admins.append(server)
        return server

    def describe(self) -> dict[str, Any]:
        """Return models, versions, replicas, applications and their counters, as plain values."""
        with self._lock:
            return {
                "closed": self._core.is_closed,
                "open_queries": self._core.open_queries,
                "answers_lost": self._core.answers_lost,
                "feedback": self._core.feedback_records(),
                "state": None if self._state is None else self._state.describe(),
                "gpus": read_inventory().describe(),
                "models": {name: model.describe() for name, model in self._models.items()},
                "applications": {
                    name: application.describe()
                    for name, application in self._applications.items()
                    if not isinstance(application, Model)
                },
            }

    def close(self, *, timeout: float = 5.0) -> None:
        """End every open query (cause ``CANCELLED``), stop all threads and free the models.

        Safe to call more than once. A model that does not return within ``timeout`` seconds is
        left behind with a warning.
        """
        if self._core.is_forked or self._core.is_closed:
            return
        self._core.close()
        for admin in self._admins:
            admin.close()
        with self._lock:
            models = list(self._models.values())
            self._models.clear()
            self._applications.clear()
        _retire([d for model in models for d in model._remove_all()], timeout)
        self._core.wake_reaper()
        if self._reaper is not threading.current_thread():
            self._reaper.join(timeout)
        for port in tuple(self._core.ports):
            port.close_soon()
        if self._state is not None:
            self._state.close()
        _open_engines.discard(self)

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._core.is_closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"models={sorted(self._models)}"
        return f"<clipper.Engine {state}>"

    def _adopt(
        self, request: DeployRequest, deployment: Deployment, existing: Model | None, default: Any
    ) -> Model:
        name = request.name
        with self._lock:
            try:
                self._core.check_usable()
                model = existing
                if model is None:
                    model = self._new_model(request, deployment, default)
                surplus = model._install(deployment, self._keep_versions)
                self._models[name] = self._applications[name] = model
            except BaseException:
                deployment.retire(timeout=1.0)
                raise
        _retire(surplus, timeout=10.0)
        return model

    def _new_model(self, request: DeployRequest, deployment: Deployment, default: Any) -> Model:
        name, core = request.name, deployment.core
        check_objective(request.slo, name, deployment)
        specs = (core.input.tensors, core.output.tensors)
        # A name that was undeployed keeps its place in the core, as applications may still link it.
        # They hold on to its specs: a model with others gets a place of its own.
        if self._specs.get(name) != specs:
            self._model_cores[name], self._specs[name] = ModelCore(self._core, name), specs
        model_core = self._model_cores[name]
        model = Model(
            self._core, name, [model_core], core.input, core.output, policy=None, slo=request.slo,
            has_default=default is not NO_DEFAULT, default=default, min_confidence=None,
            priority=request.priority,
        )  # fmt: skip
        model._adopt(self, model_core)
        model._slo = request.slo
        model._model_names = (name,)
        return model


def _options_of(request: DeployRequest, default: Any) -> dict[str, Any]:
    """Return the arguments with which ``deploy`` would do the same again."""
    return {
        "input": request.input, "output": request.output, "slo": request.slo,
        "priority": request.priority, "replicas": request.replicas,
        "where": request.isolated or "thread", "device": request.device,
        "batching": request.batching, "max_queue": request.max_queue, "memory": request.memory,
        "resources": request.resources, "cache": request.cache or False, "warmup": request.example,
        "caller_runs": request.caller_runs, "ready_timeout": request.ready_timeout,
        **({"length_buckets": request.length_buckets} if request.length_buckets else {}),
        **({} if default is NO_DEFAULT else {"default": default}),
    }  # fmt: skip


def _retire(deployments: list[Deployment], timeout: float) -> None:
    for deployment in deployments:
        if not deployment.retire(timeout):
            _log.warning(
                "model %s version %s has not returned within %g s: its thread and memory are "
                "left behind", deployment.core.name, deployment.core.version, timeout,
            )  # fmt: skip


def _start_reaper(core: EngineCore) -> threading.Thread:
    thread = threading.Thread(target=core.reap, name="clipper-reaper", daemon=True)
    thread.start()
    return thread


@atexit.register
def _close_all() -> None:
    for engine in list(_open_engines):
        engine.close(timeout=2.0)
