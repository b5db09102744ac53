"""Tells an adapter the threads and the GPU memory that its replica may use."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any


def takes_limit(adapter: Any, name: str) -> bool:
    """Whether an adapter's ``load`` takes a keyword."""
    try:
        parameters = inspect.signature(adapter.load).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(parameter.name == name or parameter.kind is inspect.Parameter.VAR_KEYWORD
               for parameter in parameters)  # fmt: skip


def load_within(adapter: Any, device: str, threads: int | None, gpu_memory: int | None) -> Any:
    """Load a model; its adapter is told the limits that it takes."""
    limits = {"threads": threads, "gpu_memory": gpu_memory}
    told = {name: value for name, value in limits.items()
            if value is not None and takes_limit(adapter, name)}  # fmt: skip
    return adapter.load(device, **told)


def limits_of(environment: Mapping[str, str] = os.environ) -> tuple[int | None, int | None]:
    """Return threads and bytes of GPU memory, as the engine put them into the environment."""
    threads, memory = (environment.get(f"CLIPPER_{name}") for name in ("THREADS", "GPU_MEMORY"))
    return int(threads) if threads else None, int(memory) if memory else None
