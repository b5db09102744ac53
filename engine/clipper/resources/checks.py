"""Refuses what cannot be enforced where a replica runs."""

from typing import Any

from clipper_worker.limits import takes_limit

from .granting import wanted_gpu
from .request import Resources

_ELSEWHERE = "deploy with where=clipper.Isolated()"


def check_resources(resources: Resources, device: str, adapter: Any, *, is_isolated: bool,
                    is_plain: bool) -> None:  # fmt: skip
    """Refuse a request that cannot be kept to, before anything is loaded.

    Parameters
    ----------
    resources : Resources
    device : str
    adapter : ModelAdapter
    is_isolated : bool
    is_plain : bool
        Whether the model is a callable without an adapter.

    Raises
    ------
    ValueError
    """
    if resources.is_any:
        wanted_gpu(resources, device)
    if is_isolated:
        return
    for name in ("memory", "nice"):
        if getattr(resources, name) is not None:
            raise ValueError(
                f"resources.{name} is {getattr(resources, name)!r}, but replicas on threads share "
                f"this process's: {_ELSEWHERE}"
            )
    if is_plain and resources.gpu is not None:
        raise ValueError(
            f"resources.gpu is {resources.gpu!r}, but a function in this process uses what GPU it "
            f"likes: {_ELSEWHERE}, or give an adapter"
        )
    for name in ("threads", "gpu_memory"):
        if getattr(resources, name) is not None and not takes_limit(adapter, name):
            raise ValueError(
                f"resources.{name} is {getattr(resources, name)!r}, but {adapter!r} cannot be told "
                f"in this process (its load() takes no {name}=): {_ELSEWHERE}"
            )
