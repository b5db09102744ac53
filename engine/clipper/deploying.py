"""Deploying a model: check what was asked for, load, warm up, and only then let it serve."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from ._core.arguments import check_priority
from ._core.rows import RowSpec
from ._core.serving import DeploymentCore, EngineCore
from .batching import Strategy, check_max_queue, largest_batch
from .cache import Cache
from .errors import AlreadyExistsError, DeployError
from .model import Deployment, Model
from .model_protocol import ModelAdapter, Runner
from .replica_thread import ReplicaThread
from .replicas.isolated import IsolatedReplicaThread
from .replicas.isolation import Isolated, to_isolated
from .replicas.model_source import ModelSource, NamedModel, source_of
from .resources.checks import check_resources
from .resources.grant import Grant
from .resources.granting import explain, grant_all, release
from .resources.request import Resources, to_resources
from .row_examples import check_example, type_of_example
from .sizes import to_bytes
from .tensor import RowType, Tensor, check_row_type

_DEFAULT_MAX_QUEUE = 16_384
_MOST_REPLICAS = 256
_WHAT_IT_TAKES = (
    "what does model {name!r} take? Give input=clipper.Tensor(dtype, shape) of one row, or warmup= "
    "with a typical row"
)


class PlainCallable:
    """Any callable from a batch to outputs, as an adapter."""

    batch_as: Literal["array", "dlpack"] = "array"

    def __init__(self, function: Runner) -> None:
        self.input: RowType | None = None
        self.output: RowType | None = None
        self._function = function

    def load(self, device: str) -> Runner:
        """Return the callable; devices are its own business."""
        return self._function

    def example(self) -> Any:
        """Return None: nobody but its user knows what it takes."""
        return None


@dataclass(slots=True)
class DeployRequest:
    """The arguments of ``Engine.deploy``, checked."""

    name: str
    adapter: ModelAdapter
    isolated: Isolated | None
    source: ModelSource | None  # of isolated replicas
    version: int | str | None
    input: RowType | None  # None: an isolated replica's worker will say
    output: RowType | None
    slo: float | None
    priority: int
    replicas: int
    device: str
    resources: Resources
    batching: Strategy
    max_queue: int
    memory: int
    cache: Cache | None
    length_buckets: tuple[int, ...]
    example: Any
    caller_runs: bool
    ready_timeout: float

    @classmethod
    def checked(
        cls, name: str, model: ModelAdapter | Callable[[Any], Any] | str | os.PathLike[str], *,
        version: int | str | None, input: RowType | None, output: RowType | None, slo: float | None,
        priority: int, replicas: int, where: object,
        device: str, resources: object, batching: Strategy, max_queue: int | None,
        memory: int | str, cache: Cache | None,
        length_buckets: Sequence[int] | None, warmup: Any, caller_runs: bool,
        ready_timeout: float,
    ) -> Self:  # fmt: skip
        """Refuse what cannot work before anything is loaded."""
        if not isinstance(name, str) or not name:
            raise ValueError(f"the model's name is {name!r}: give a string that is not empty")
        isolated = to_isolated(where)
        if not isinstance(replicas, int) or not 1 <= replicas <= _MOST_REPLICAS:
            raise ValueError(
                f"replicas is {replicas!r}: give an integer from 1 to {_MOST_REPLICAS}"
            )
        adapter = _to_adapter(model, isolated)
        asked = to_resources(resources)
        check_resources(asked, device, adapter, is_isolated=isolated is not None,
                        is_plain=isinstance(adapter, PlainCallable))  # fmt: skip
        input = None if input is None else check_row_type(input, "input")
        output = None if output is None else check_row_type(output, "output")
        example = _example(adapter, warmup, input)
        takes = _input_of(name, adapter, input, example)
        return cls(
            name=name, adapter=adapter, version=version,
            isolated=isolated, source=None if isolated is None else source_of(model),
            input=takes, output=output or adapter.output,
            length_buckets=_buckets(adapter, length_buckets, takes),
            slo=_positive(slo, "slo"), priority=check_priority(priority),
            replicas=replicas, device=device, resources=asked, batching=batching,
            max_queue=_DEFAULT_MAX_QUEUE if max_queue is None else check_max_queue(max_queue),
            memory=to_bytes(memory), cache=cache,
            # No caller runs a model within a replica's own limits, but it may carry to a worker.
            example=example,
            caller_runs=caller_runs and not (isolated is None and asked.are_the_threads_own),
            ready_timeout=_positive(ready_timeout, "ready_timeout") or 0.0,
        )  # fmt: skip

    def settle_version(self, loaded: list[int | str]) -> None:
        """Choose the version if it was not named, or refuse one that is loaded."""
        if self.version is None:
            self.version = max((v for v in loaded if isinstance(v, int)), default=0) + 1
        elif self.version in loaded:
            raise AlreadyExistsError(
                f"version {self.version!r} of model {self.name!r} is deployed already: give "
                "another version, or none to have the next number"
            )


def deploy(core: EngineCore, request: DeployRequest, existing: Model | None) -> Deployment:
    """Load and warm up all replicas. Raises DeployError, with nothing left behind."""
    until = time.monotonic() + request.ready_timeout
    grants = grant_all(
        request.name, request.replicas, request.resources, request.device,
        is_isolated=request.isolated is not None, can_use_gpu=_can_use_gpu(request.adapter),
    )  # fmt: skip
    threads = [_make_thread(request, f"clipper-{request.name}-{i}", grant)
               for i, grant in enumerate(grants)]  # fmt: skip
    try:
        for thread in threads:
            thread.start(request.example, request.input, request.output)
        for thread in threads:
            thread.wait(until, "loading")
        made = _make_core(core, request, threads, existing)
        for thread in threads:
            thread.wait(until, "warm-up")
    except BaseException as error:
        for thread in threads:
            thread.stop()
        for thread in threads:
            if isinstance(thread, IsolatedReplicaThread):
                thread.join(0.0)  # its worker is gone when deploy() returns
        release(grants)
        if isinstance(error, DeployError):
            raise DeployError(
                f"cannot deploy {request.name!r}: {error}{explain(request.device)}"
            ) from error.__cause__
        raise
    largest = largest_batch(request.batching)
    return Deployment(made, threads, request.batching, request.device, time.time(), largest)


def _make_thread(request: DeployRequest, name: str, grant: Grant) -> ReplicaThread:
    if request.isolated is None or request.source is None:
        return ReplicaThread(request.adapter, grant, name)
    return IsolatedReplicaThread(
        request.source, request.isolated, grant, name,
        output_bytes=to_bytes(request.isolated.output_bytes), ready_timeout=request.ready_timeout,
    )  # fmt: skip


def _make_core(
    core: EngineCore, request: DeployRequest, threads: list[ReplicaThread], existing: Model | None
) -> DeploymentCore:
    input = _input_that_showed(request, threads[0])
    output = _output_of(request, threads[0].probed)
    if existing is not None:
        _check_same_specs(request.name, input, output, existing)
    largest = largest_batch(request.batching)
    made = core.add_deployment(
        request.name, request.version, RowSpec(input), RowSpec(output),
        max_queue=request.max_queue, row_budget=request.memory, max_batch=largest,
        # No caller could run what another process runs, but it may carry the batch there.
        caller_runs=request.caller_runs and request.isolated is None,
        length_buckets=request.length_buckets,
        cache=None if request.cache is None else request.cache.to_core(),
        **({} if request.isolated is None else {"most_batch": largest}),
        most_in_flight=1 if request.isolated is None else request.isolated.in_flight,
        callers_carry=request.caller_runs and request.isolated is not None,
    )  # fmt: skip
    as_dlpack = request.adapter.batch_as == "dlpack"
    # All replicas first: afterwards the list does not change any more.
    runners = [made.add_replica(request.batching, t.runner, as_dlpack) for t in threads]
    for thread, runner in zip(threads, runners, strict=True):
        thread.go(runner, largest)
    return made


def _to_adapter(model: Any, isolated: Isolated | None) -> ModelAdapter:
    if isolated is not None and isinstance(model, (str, os.PathLike)):
        return NamedModel(os.fspath(model))
    if isinstance(model, ModelAdapter):
        return model
    if callable(model):
        return PlainCallable(model)
    raise TypeError(
        f"the model is {type(model).__name__}, which cannot be called: give a function from a "
        "batch to outputs, or an adapter such as clipper_adapters.SklearnModel(model)"
    )


def _can_use_gpu(adapter: ModelAdapter) -> bool | None:
    """Whether an adapter can use a GPU here; None: only the worker will know."""
    return None if isinstance(adapter, NamedModel) else getattr(adapter, "can_use_gpu", False)


def _example(adapter: ModelAdapter, warmup: Any, input: RowType | None) -> Any:
    if warmup is False:
        return None
    if warmup is None:
        return adapter.example()
    return check_example(warmup, input or adapter.input)


def _input_of(
    name: str, adapter: ModelAdapter, input: RowType | None, example: Any
) -> RowType | None:
    if input is not None and adapter.input is not None and input != adapter.input:
        raise ValueError(f"input is {input!r}, but {adapter!r} takes {adapter.input!r}")
    known = input or adapter.input
    if known is not None:
        return known
    if example is not None:
        return type_of_example(example)
    if isinstance(adapter, NamedModel):
        return None
    raise ValueError(_WHAT_IT_TAKES.format(name=name))


def _input_that_showed(request: DeployRequest, thread: ReplicaThread) -> RowType:
    known = request.input
    if known is None and isinstance(thread, IsolatedReplicaThread):
        known = thread.input
    if known is None:
        raise ValueError(_WHAT_IT_TAKES.format(name=request.name))
    return known


def _buckets(
    adapter: ModelAdapter, given: Sequence[int] | None, input: RowType | None
) -> tuple[int, ...]:
    known: Sequence[int] = getattr(adapter, "length_buckets", ())
    lengths = tuple(known if given is None else given)
    if not lengths:
        return ()
    tensors = [] if input is None else [input] if isinstance(input, Tensor) else input.values()
    if input is not None and not any(tensor.is_ragged for tensor in tensors):
        raise ValueError(f"length_buckets is {lengths!r}, but no input is ragged: leave it out")
    if len(lengths) > 15 or list(lengths) != sorted(set(lengths)) or min(lengths) < 1:
        raise ValueError(f"length_buckets is {lengths!r}: give up to 15 lengths that rise, from 1")
    return lengths


def _output_of(request: DeployRequest, probed: RowType | None) -> RowType:
    declared = request.output or probed
    if declared is None:
        raise ValueError(
            f"what does model {request.name!r} return? Give output=clipper.Tensor(dtype, shape) of "
            "one row, or warmup= with a typical row"
        )
    return declared


def _check_same_specs(name: str, input: RowType, output: RowType, existing: Model) -> None:
    before = (existing.input.tensors, existing.output.tensors)
    if (input, output) != before:
        raise ValueError(
            f"model {name!r} is {before[0]!r} → {before[1]!r}; a "
            f"version that is {input!r} → {output!r} needs another name, or undeploy first"
        )


def _positive(value: float | None, what: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)) or not 0.0 < value < 1e9:
        raise ValueError(f"{what} is {value!r}: give seconds above 0, such as 0.02 for 20 ms")
    return float(value)
