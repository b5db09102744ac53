"""Gives resources to replicas, and knows what others have: one book for the process."""

import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

from clipper.errors import DeployError

from .grant import Grant
from .inventory import Gpu, Inventory, in_cuda_order
from .nvml import read_inventory
from .placement import DoesNotFit, Promise, check_cpu_set, place_cpus, place_gpus
from .request import Resources, gpu_of_device

_log = logging.getLogger("clipper")


class Book:
    """All grants that are held in this process."""

    def __init__(self) -> None:
        self.pid: int = os.getpid()
        self.lock: threading.Lock = threading.Lock()
        self.grants: list[Grant] = []

    def promises(self) -> list[Promise]:
        """Return what is promised on GPUs."""
        return [Promise(grant.gpu.uuid, grant.gpu_memory, grant.pid)
                for grant in self.grants if grant.gpu is not None]  # fmt: skip

    def taken_cpus(self) -> dict[int, str]:
        """Return which CPUs belong to one replica alone."""
        return {cpu: grant.replica for grant in self.grants for cpu in grant.cpus or ()
                if isinstance(grant.asked.cpus, int)}  # fmt: skip

    def give_back(self, grant: Grant) -> None:
        """Let others have it. Safe to call twice."""
        with self.lock:
            self.grants = [held for held in self.grants if held is not grant]


_lock = threading.Lock()
_made: list[Book] = []


def book() -> Book:
    """Return this process's book; a forked child begins an empty one."""
    with _lock:
        if not _made or _made[0].pid != os.getpid():
            _made[:] = [Book()]
        return _made[0]


def grant_all(
    name: str, count: int, resources: Resources, device: str, *, is_isolated: bool,
    can_use_gpu: bool | None,
) -> list[Grant]:  # fmt: skip
    """Place all replicas of a deployment, or none.

    Parameters
    ----------
    name : str
        The model's.
    count : int
        Replicas.
    resources : Resources
    device : str
        As deploy() was told.
    is_isolated : bool
    can_use_gpu : bool or None
        Whether the adapter can, None if only its worker will know; for ``device="auto"``.

    Raises
    ------
    DeployError
        If one fits nowhere, with what was free.
    """
    held = book()
    with held.lock:
        try:
            cpus = _cpus(held, resources, count)
            grants = [Grant(f"{name}-{i}", resources, device, cpus[i]) for i in range(count)]
            _give_gpus(held, grants, is_isolated, can_use_gpu)
        except DoesNotFit as error:
            raise DeployError(f"cannot deploy {name!r}: {error}") from None
        held.grants = [*held.grants, *grants]
    return grants


def _cpus(held: Book, resources: Resources, count: int) -> Sequence[tuple[int, ...] | None]:
    if resources.cpus is None:
        return [None] * count
    # Of the whole process: the calling thread may be kept to less.
    allowed = sorted(os.sched_getaffinity(os.getpid()))
    named = resources.cpu_set
    if named is not None:
        check_cpu_set(allowed, named)
        return [named] * count
    assert isinstance(resources.cpus, int)
    return place_cpus(allowed, held.taken_cpus(), resources.cpus, count)


def wanted_gpu(resources: Resources, device: str) -> int | str | None:
    """Read which GPU two ways of asking mean; None: none, or no more than ``device="auto"``.

    Raises
    ------
    ValueError
        If they contradict one another.
    """
    by_device = None if device == "auto" else gpu_of_device(device)
    asked = resources.gpu
    if isinstance(asked, str):
        asked = gpu_of_device(asked, "gpu")
    if asked is None:
        asked = "auto" if resources.gpu_memory is not None and device == "auto" else by_device
    if device == "cpu" and (asked is not None or resources.gpu_memory is not None):
        raise ValueError(f"device is 'cpu', but resources asks for a GPU: {resources!r}")
    if by_device is not None and by_device != asked:
        raise ValueError(f"device is {device!r}, but resources asks for gpu={resources.gpu!r}")
    return asked


def _give_gpus(
    held: Book, grants: list[Grant], is_isolated: bool, can_use_gpu: bool | None
) -> None:
    resources, device = grants[0].asked, grants[0].device
    wanted = wanted_gpu(resources, device)
    if wanted is None and (device == "cpu" or can_use_gpu is False):
        for grant in grants:
            grant.hides_gpus = device == "cpu"
        return
    inventory = seen_by_cuda()
    is_firm = wanted is not None
    if inventory.problem or not inventory.gpus:
        if is_firm and (resources.gpu is not None or resources.gpu_memory is not None
                        or not isinstance(wanted, int)):  # fmt: skip
            raise DoesNotFit(f"its replicas need a GPU; {inventory.table()}")
        return  # by index alone, what the framework sees; or whatever "auto" is to the adapter
    try:
        gpus = place_gpus(inventory, "auto" if wanted is None else wanted,
                          resources.gpu_memory_bytes, len(grants), held.promises())  # fmt: skip
        devices = ["" if is_isolated else _index_here(gpu, inventory) for gpu in gpus]
    except DoesNotFit as error:
        if is_firm:
            raise
        for grant in grants:
            grant.device = "cpu"
        _log.warning("model %s uses the CPU: %s", grants[0].replica, error)
        return
    for grant, gpu, index in zip(grants, gpus, devices, strict=True):
        grant.gpu = gpu
        if gpu.sickness:
            _log.warning("%s was asked onto GPU %s: %s", grant.replica, gpu.uuid, gpu.sickness)
        # A worker sees this GPU alone; what it is told first may not be able to use one.
        grant.device = index or ("cuda:0" if is_firm else "auto")


def seen_by_cuda() -> Inventory:
    """Return the inventory, in the order in which this process's CUDA counts."""
    inventory = read_inventory()
    torch: Any = sys.modules.get("torch")
    if torch is None or inventory.problem:
        return inventory
    try:
        count = torch.cuda.device_count()
        uuids = [str(torch.cuda.get_device_properties(i).uuid) for i in range(count)]
    except (AttributeError, RuntimeError, AssertionError):
        return inventory  # a torch of before 2.4, or without CUDA
    return in_cuda_order(inventory, uuids)


def _index_here(gpu: Gpu, inventory: Inventory) -> str:
    """Return what this process's frameworks call a GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if gpu.is_mig and not visible.lower().startswith("mig-"):
        raise DoesNotFit(
            f"{gpu.uuid} is a MIG instance, which a process uses only if it starts with it: "
            "deploy with where=clipper.Isolated()"
        )
    kinds = {other.name for other in inventory.gpus}
    is_by_bus = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if len(kinds) > 1 and not is_by_bus and sys.modules.get("torch") is None:
        raise DoesNotFit(
            f"CUDA counts different GPUs ({', '.join(sorted(kinds))}) in an order of its own: set "
            "CUDA_DEVICE_ORDER=PCI_BUS_ID before the process starts, or deploy with "
            "where=clipper.Isolated()"
        )
    return f"cuda:{list(inventory.gpus).index(gpu)}"


def release(grants: Sequence[Grant]) -> None:
    """Give back what replicas had."""
    for grant in grants:
        book().give_back(grant)


def explain(device: str) -> str:
    """Return what the driver knows of GPUs, where one was asked for by name; else nothing."""
    is_gpu = device.lower().startswith(("cuda", "gpu-", "mig-"))
    return f"\n{read_inventory().table()}" if is_gpu else ""
