"""What GPUs there are, as placement sees them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from clipper.sizes import to_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU or a MIG instance, at one moment.

    Attributes
    ----------
    uuid, name : str
    index : int
        Of the GPU, or of the one that the instance is part of, as nvidia-smi counts.
    parent : str
        UUID of the GPU that a MIG instance is part of; empty for whole GPUs.
    total, free : int
        Bytes of its memory.
    utilisation : float or None
        Share of time in which something ran, from 0 to 1; None where the driver does not tell.
    temperature : int or None
        Degrees Celsius.
    ecc_errors : int or None
        Uncorrected since the driver was loaded; None without ECC.
    throttled : tuple of str
        Why its clocks are lower than they could be, apart from idling and set limits.
    sickness : str
        Why nothing is placed here unless it is asked for by name; empty: it is well.
    unusable : str
        Why nothing can run here at all; empty: it can.
    processes : dict of int
        Process id to bytes of its memory; -1 where the driver does not tell.
    """

    uuid: str
    name: str
    index: int
    parent: str = ""
    total: int = 0
    free: int = 0
    utilisation: float | None = None
    temperature: int | None = None
    ecc_errors: int | None = None
    throttled: tuple[str, ...] = ()
    sickness: str = ""
    unusable: str = ""
    processes: Mapping[int, int] = field(default_factory=dict[int, int])

    @property
    def is_mig(self) -> bool:
        """Whether it is a part of a GPU."""
        return bool(self.parent)

    def describe(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "uuid": self.uuid, "name": self.name, "index": self.index, "parent": self.parent,
            "total": self.total, "free": self.free, "utilisation": self.utilisation,
            "temperature": self.temperature, "ecc_errors": self.ecc_errors,
            "throttled": list(self.throttled), "sickness": self.sickness or self.unusable,
            "processes": dict(self.processes),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Inventory:
    """All GPUs that this process may use, in CUDA's order; or why there is none.

    Attributes
    ----------
    gpus : sequence of Gpu
        The index in it is the one of ``"cuda:<index>"``.
    problem : str
        What keeps NVML from seeing anything; empty if it does.
    driver : str
        Its version.
    """

    gpus: Sequence[Gpu] = ()
    problem: str = ""
    driver: str = ""

    def table(self, promised: Mapping[str, int] | None = None) -> str:
        """Return a line for each GPU: what was free, or why it is left out.

        Parameters
        ----------
        promised : dict of int, optional
            UUID to bytes that replicas were promised.
        """
        if self.problem:
            return f"NVML sees no GPU: {self.problem}"
        if not self.gpus:
            return f"NVML (driver {self.driver}) sees no GPU that this process may use"
        return "\n".join(
            f"  cuda:{i}  {gpu.uuid or '(no UUID)'}  {gpu.name}: {_state(gpu, promised or {})}"
            for i, gpu in enumerate(self.gpus)
        )

    def describe(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "driver": self.driver,
            "problem": self.problem,
            "devices": [gpu.describe() for gpu in self.gpus],
        }


def _state(gpu: Gpu, promised: Mapping[str, int]) -> str:
    if gpu.unusable:
        return gpu.unusable
    text = f"{to_text(gpu.free)} of {to_text(gpu.total)} free"
    if promised.get(gpu.uuid):
        text += f", {to_text(promised[gpu.uuid])} promised to replicas"
    return text + (f"; left out: {gpu.sickness}" if gpu.sickness else "")


#: What a GPU's ``unusable`` says if its instances follow it.
MIG_IS_ON = "MIG is on: only its instances can be used"


def visible_gpus(gpus: Sequence[Gpu], setting: str | None) -> list[Gpu]:
    """Return the GPUs that ``CUDA_VISIBLE_DEVICES`` leaves, in its order.

    Parameters
    ----------
    gpus : sequence of Gpu
        All of them, MIG instances after the GPU that they are part of.
    setting : str or None
        The variable's value: indices or UUIDs, which may be cut short; as in CUDA the first that
        names nothing ends the list. None: all are visible.
    """
    if setting is None:
        return [gpu for gpu in gpus if not gpu.unusable.startswith(MIG_IS_ON)]
    found: list[Gpu] = []
    for name in filter(None, (part.strip() for part in setting.split(","))):
        if name.isdigit():
            matching = [gpu for gpu in gpus if not gpu.is_mig and gpu.index == int(name)]
        else:
            matching = [gpu for gpu in gpus if names(name, gpu)]
        if len(matching) != 1 or matching[0] in found:
            break
        found += matching
    return found


def names(uuid: str, gpu: Gpu) -> bool:
    """Whether a UUID, perhaps cut short, is this GPU's."""
    return bool(gpu.uuid) and gpu.uuid.lower().startswith(uuid.lower())


def in_cuda_order(inventory: Inventory, uuids: Sequence[str]) -> Inventory:
    """Return the inventory in the order that CUDA showed itself, where that is known.

    Without ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` CUDA puts the fastest first; NVML follows the bus.

    Parameters
    ----------
    inventory : Inventory
    uuids : sequence of str
        In CUDA's order; with or without ``GPU-``. Empty: not known.
    """
    by_uuid = {gpu.uuid.lower().removeprefix("gpu-"): gpu for gpu in inventory.gpus}
    found = [by_uuid.pop(uuid.lower().removeprefix("gpu-"), None) for uuid in uuids]
    if None in found:
        return inventory
    seen = [gpu for gpu in found if gpu is not None]
    return replace(inventory, gpus=[*seen, *by_uuid.values()] if seen else inventory.gpus)
