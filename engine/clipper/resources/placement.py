"""Where replicas go: pure functions of the request and of what is there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clipper.sizes import to_text

from .inventory import Gpu, Inventory, names


class DoesNotFit(Exception):
    """What was asked for is not there; the text has what was free."""


@dataclass(frozen=True, slots=True)
class Promise:
    """GPU memory that a replica was promised.

    Attributes
    ----------
    uuid : str
    memory : int or None
        Bytes; None: a replica without a budget.
    pid : int or None
        The process that uses it, once it has loaded; None before.
    """

    uuid: str
    memory: int | None
    pid: int | None = None


def place_gpus(
    inventory: Inventory,
    wanted: int | str,
    memory: int | None,
    count: int,
    promises: Sequence[Promise] = (),
) -> list[Gpu]:
    """Choose a GPU for each of so many replicas.

    With a budget, the one where the least remains that still fits (best fit), so that large holes
    stay for large replicas; without, the one with the most to give. Sick ones are left out unless
    they are asked for by name.

    Parameters
    ----------
    inventory : Inventory
    wanted : int or str
        An index in the inventory, a UUID, or ``"auto"``.
    memory : int or None
        Bytes for each replica.
    count : int
        Replicas.
    promises : sequence of Promise
        What other replicas have.

    Raises
    ------
    DoesNotFit
        If one does not fit; then none is placed.
    """
    candidates = _candidates(inventory, wanted)
    left = {gpu.uuid: free_for_replicas(gpu, promises) for gpu in candidates}
    crowd = {gpu.uuid: sum(promise.uuid == gpu.uuid for promise in promises) for gpu in candidates}
    placed: list[Gpu] = []
    for _ in range(count):
        fitting = [gpu for gpu in candidates if left[gpu.uuid] >= (memory or 1)]
        if not fitting:
            raise DoesNotFit(
                _refusal(inventory, wanted, memory, count, placed=len(placed), promises=promises)
            )
        if memory is not None:
            best = min(fitting, key=lambda gpu: left[gpu.uuid])
        else:  # replicas without a budget show what they take only later: spread them
            best = min(fitting, key=lambda gpu: (crowd[gpu.uuid], -left[gpu.uuid]))
        left[best.uuid] -= memory or 0
        crowd[best.uuid] += 1
        placed.append(best)
    return placed


def free_for_replicas(gpu: Gpu, promises: Sequence[Promise]) -> int:
    """Return the bytes that are neither in use nor promised.

    What a replica uses is in the driver's count already; only what it has not taken yet of its
    promise is taken off besides. Where the driver does not tell what a process uses, one that has
    loaded counts as having taken all.
    """
    budgets: dict[int, int] = {}
    outstanding = 0
    total = gpu.total
    for promise in promises:
        if promise.uuid != gpu.uuid or promise.memory is None:
            continue
        total -= promise.memory
        if promise.pid is None:
            outstanding += promise.memory
        else:
            budgets[promise.pid] = budgets.get(promise.pid, 0) + promise.memory
    for pid, budget in budgets.items():
        used = gpu.processes.get(pid, -1)
        outstanding += 0 if used < 0 else max(budget - used, 0)
    return max(min(total, gpu.free - outstanding), 0)


def promised_bytes(promises: Sequence[Promise]) -> dict[str, int]:
    """Return how much is promised on each GPU."""
    found: dict[str, int] = {}
    for promise in promises:
        found[promise.uuid] = found.get(promise.uuid, 0) + (promise.memory or 0)
    return found


def place_cpus(
    allowed: Sequence[int], taken: Mapping[int, str], each: int, count: int
) -> list[tuple[int, ...]]:
    """Choose ``each`` CPUs for each of ``count`` replicas, none twice.

    Parameters
    ----------
    allowed : sequence of int
        What this process may run on.
    taken : dict of str
        CPU to the replica that has it.

    Raises
    ------
    DoesNotFit
    """
    free = [cpu for cpu in sorted(allowed) if cpu not in taken]
    if each * count > len(free):
        has = {cpu: owner for cpu, owner in taken.items() if cpu in allowed}
        held = "".join(f"\n  CPU {cpu}: {has.get(cpu, 'free')}" for cpu in sorted(allowed))
        raise DoesNotFit(
            f"{count} replicas with {each} CPUs each need {each * count}, but "
            f"{len(free)} of the {len(allowed)} that this process may use are free:{held}"
        )
    return [tuple(free[i * each : (i + 1) * each]) for i in range(count)]


def check_cpu_set(allowed: Sequence[int], asked: Sequence[int]) -> None:
    """Raise DoesNotFit if some of the CPUs are not this process's to use."""
    missing = sorted(set(asked) - set(allowed))
    if missing:
        raise DoesNotFit(f"cpus names {missing}, but this process may use {sorted(allowed)} only")


def _candidates(inventory: Inventory, wanted: int | str) -> list[Gpu]:
    gpus = inventory.gpus
    if wanted == "auto":
        return [gpu for gpu in gpus if not gpu.unusable and not gpu.sickness]
    if isinstance(wanted, int):
        found = [gpus[wanted]] if wanted < len(gpus) else []
        what = f"no GPU has the index {wanted}"
    else:
        found = [gpu for gpu in gpus if names(wanted, gpu)]
        what = f"{'no' if not found else 'more than one'} GPU has the UUID {wanted!r}"
    if len(found) != 1:
        raise DoesNotFit(f"{what}; there are:\n{inventory.table()}")
    if found[0].unusable:
        raise DoesNotFit(f"the GPU {found[0].uuid or wanted} cannot be used: {found[0].unusable}")
    return found


def _refusal(
    inventory: Inventory, wanted: int | str, memory: int | None, count: int, *, placed: int,
    promises: Sequence[Promise],
) -> str:  # fmt: skip
    largest = max((gpu.total for gpu in inventory.gpus if not gpu.unusable), default=0)
    if memory is None:
        what = "no GPU that is well has memory left"
    elif inventory.gpus and memory > largest:
        what = f"gpu_memory is {to_text(memory)}, more than the largest GPU has"
    else:
        where = "any GPU that is well" if wanted == "auto" else f"GPU {wanted}"
        what = f"{to_text(memory)} for each of {count} replicas are not free on {where}"
        if placed:
            what += f" ({placed} would fit)"
    return f"{what}; there are:\n{inventory.table(promised_bytes(promises))}"
