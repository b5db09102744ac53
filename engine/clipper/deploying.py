"""Deploying a model: check what was asked for, load, warm up, and only then let it serve."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._core.serving import DeploymentCore, EngineCore
from ._core.tensors import Spec
from .batching import Strategy, largest_batch
from .errors import AlreadyExistsError, DeployError
from .model import Deployment, Model
from .model_protocol import ModelAdapter, Runner
from .replica_thread import ReplicaThread
from .tensor import Tensor

_DEFAULT_MAX_QUEUE = 16_384
_MOST_REPLICAS = 256
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "B": 1}


class PlainCallable:
    """Any callable from a batch to outputs, as an adapter."""

    batch_as: Literal["array", "dlpack"] = "array"

    def __init__(self, function: Runner) -> None:
        self.input: Tensor | None = None
        self.output: Tensor | None = None
        self._function = function

    def load(self, device: str) -> Runner:
        """Return the callable; devices are its own business."""
        return self._function

    def example(self) -> NDArray[Any] | None:
        """Return None: nobody but its user knows what it takes."""
        return None


@dataclass(slots=True)
class DeployRequest:
    """The arguments of ``Engine.deploy``, checked."""

    name: str
    adapter: ModelAdapter
    version: int | str | None
    input: Tensor
    output: Tensor | None
    slo: float | None
    replicas: int
    device: str
    batching: Strategy
    max_queue: int
    memory: int
    example: NDArray[Any] | None
    caller_runs: bool
    ready_timeout: float

    @classmethod
    def checked(
        cls, name: str, model: ModelAdapter | Callable[[Any], Any], *, version: int | str | None,
        input: Tensor | None, output: Tensor | None, slo: float | None, replicas: int, where: str,
        device: str, batching: Strategy, max_queue: int | None, memory: int | str,
        warmup: ArrayLike | Literal[False] | None, caller_runs: bool, ready_timeout: float,
    ) -> Self:  # fmt: skip
        """Refuse what cannot work before anything is loaded."""
        if not isinstance(name, str) or not name:
            raise ValueError(f"the model's name is {name!r}: give a string that is not empty")
        if where != "thread":
            raise ValueError(f"where={where!r} is not available: give 'thread'")
        if not isinstance(replicas, int) or not 1 <= replicas <= _MOST_REPLICAS:
            raise ValueError(
                f"replicas is {replicas!r}: give an integer from 1 to {_MOST_REPLICAS}"
            )
        adapter = _to_adapter(model)
        example = _example(adapter, warmup, input)
        return cls(
            name=name, adapter=adapter, version=version,
            input=_input_of(name, adapter, input, example), output=output or adapter.output,
            slo=_positive(slo, "slo"), replicas=replicas, device=device, batching=batching,
            max_queue=_count(max_queue, "max_queue", _DEFAULT_MAX_QUEUE), memory=to_bytes(memory),
            example=example, caller_runs=caller_runs,
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
    threads = [
        ReplicaThread(request.adapter, request.device, f"clipper-{request.name}-{i}")
        for i in range(request.replicas)
    ]
    try:
        for thread in threads:
            thread.start(request.example)
        for thread in threads:
            thread.wait(until, "loading")
        made = _make_core(core, request, threads, existing)
        for thread in threads:
            thread.wait(until, "warm-up")
    except BaseException as error:
        for thread in threads:
            thread.stop()
        if isinstance(error, DeployError):
            raise DeployError(f"cannot deploy {request.name!r}: {error}") from error.__cause__
        raise
    return Deployment(made, threads, request.batching, request.device, time.time())


def _make_core(
    core: EngineCore, request: DeployRequest, threads: list[ReplicaThread], existing: Model | None
) -> DeploymentCore:
    output = _output_of(request, threads[0].probed)
    if existing is not None:
        _check_same_specs(request, output, existing)
    largest = largest_batch(request.batching)
    made = core.add_deployment(
        request.name, request.version, Spec(request.input), Spec(output),
        max_queue=request.max_queue, row_budget=request.memory, max_batch=largest,
        caller_runs=request.caller_runs,
    )  # fmt: skip
    as_dlpack = request.adapter.batch_as == "dlpack"
    # All replicas first: afterwards the list does not change any more.
    runners = [made.add_replica(request.batching, t.runner, as_dlpack) for t in threads]
    for thread, runner in zip(threads, runners, strict=True):
        thread.go(runner, made.output, largest)
    return made


def _to_adapter(model: Any) -> ModelAdapter:
    if isinstance(model, ModelAdapter):
        return model
    if callable(model):
        return PlainCallable(model)
    raise TypeError(
        f"the model is {type(model).__name__}, which cannot be called: give a function from a "
        "batch to outputs, or an adapter such as clipper_adapters.SklearnModel(model)"
    )


def _example(
    adapter: ModelAdapter, warmup: ArrayLike | Literal[False] | None, input: Tensor | None
) -> NDArray[Any] | None:
    if warmup is False:
        return None
    if warmup is None:
        return adapter.example()
    row = np.asarray(warmup)
    spec = input or adapter.input
    if spec is None:
        return row
    if not isinstance(warmup, np.ndarray):
        row = row.astype(spec.dtype)
    if row.dtype != spec.dtype or row.shape != spec.shape:
        raise ValueError(
            f"warmup is {row.dtype} of shape {row.shape}, but the input is {spec!r}: give one row"
        )
    return row


def _input_of(
    name: str, adapter: ModelAdapter, input: Tensor | None, example: NDArray[Any] | None
) -> Tensor:
    if input is not None and not isinstance(input, Tensor):
        raise TypeError(f"input is {input!r}: give clipper.Tensor(dtype, shape) of one row")
    if input is not None and adapter.input is not None and input != adapter.input:
        raise ValueError(f"input is {input!r}, but {adapter!r} takes {adapter.input!r}")
    known = input or adapter.input
    if known is not None:
        return known
    if example is not None:
        return Tensor(example.dtype, example.shape)
    raise ValueError(
        f"what does model {name!r} take? Give input=clipper.Tensor(dtype, shape) of one row, or "
        "warmup= with a typical row"
    )


def _output_of(request: DeployRequest, probed: Tensor | None) -> Tensor:
    if request.output is None and probed is None:
        raise ValueError(
            f"what does model {request.name!r} return? Give output=clipper.Tensor(dtype, shape) of "
            "one row, or warmup= with a typical row"
        )
    declared = request.output or probed
    if declared is None or (probed is not None and probed.shape != declared.shape):
        raise DeployError(
            f"cannot deploy {request.name!r}: its outputs are {probed!r}, but output={declared!r} "
            "was declared"
        )
    return declared


def _check_same_specs(request: DeployRequest, output: Tensor, existing: Model) -> None:
    if (request.input, output) != (existing.input.tensor, existing.output.tensor):
        raise ValueError(
            f"model {request.name!r} is {existing.input.tensor!r} → {existing.output.tensor!r}; a "
            f"version that is {request.input!r} → {output!r} needs another name, or undeploy first"
        )


def to_bytes(size: int | str) -> int:
    """Read a size such as ``"256MiB"`` or a number of bytes."""
    if isinstance(size, str):
        for unit, factor in _UNITS.items():
            number = size.removesuffix(unit).strip()
            if number != size and number.replace(".", "", 1).isdigit():
                return int(float(number) * factor)
    elif isinstance(size, int) and size > 0:
        return size
    raise ValueError(f"{size!r} is no size: give bytes, or a string such as '256MiB' or '4GiB'")


def _positive(value: float | None, what: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)) or not 0.0 < value < 1e9:
        raise ValueError(f"{what} is {value!r}: give seconds above 0, such as 0.02 for 20 ms")
    return float(value)


def _count(value: int | None, what: str, default: int) -> int:
    if value is None:
        return default
    if not isinstance(value, int) or not 1 <= value <= 1 << 24:
        raise ValueError(f"{what} is {value!r}: give an integer from 1 to {1 << 24}")
    return value
