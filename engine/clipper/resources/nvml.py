"""Reads GPUs through NVML: the only module that knows ``pynvml``."""

import contextlib
import importlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from .inventory import MIG_IS_ON, Gpu, Inventory, visible_gpus

#: What tells of a fault. Idling, power caps and clocks that were set do not.
_SLOWDOWNS = {
    0x08: "hardware slowdown",
    0x20: "too hot (software slowdown)",
    0x40: "too hot (hardware slowdown)",
    0x80: "power brake",
}
_OF_HARDWARE = 0x08 | 0x40 | 0x80

_lock = threading.Lock()
_started: dict[int, Any] = {}  # process id → module: NVML does not survive a fork


def read_inventory() -> Inventory:
    """Ask the driver, now. Never raises for what the driver does: that is in the result."""
    with _lock:
        try:
            nvml = _start()
        except ModuleNotFoundError:
            return Inventory(problem="pynvml is not installed: python -m pip install nvidia-ml-py")
        except Exception as error:
            return Inventory(problem=_problem(error))
        try:
            driver = _text(nvml.nvmlSystemGetDriverVersion())
            gpus = list(_gpus(nvml))
        except nvml.NVMLError as error:
            return Inventory(problem=_problem(error))
    visible = visible_gpus(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))
    return Inventory(visible, "", driver)


def _start() -> Any:
    nvml = importlib.import_module("pynvml")
    if _started.get(os.getpid()) is not nvml:
        nvml.nvmlInit()
        _started.clear()
        _started[os.getpid()] = nvml
    return nvml


def _problem(error: Exception) -> str:
    kind = type(error).__name__
    if kind in ("NVMLError_LibraryNotFound", "NVMLError_DriverNotLoaded"):
        return f"no NVIDIA driver ({error}): install it, or use the CPU"
    if kind == "NVMLError_LibRmVersionMismatch":
        return f"the driver was updated while it was loaded ({error}): restart the machine"
    return f"NVML failed: {error}"


def _gpus(nvml: Any) -> Iterator[Gpu]:
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            whole = _read(nvml, handle, index)
        except nvml.NVMLError as error:
            yield Gpu(uuid="", name="GPU", index=index, unusable=f"does not answer: {error}")
            continue
        instances = list(_instances(nvml, handle, whole)) if whole.unusable else []
        if whole.unusable and not instances:
            whole = replace(whole, unusable="MIG is on, and it has no instance")
        yield whole
        yield from instances


def _read(nvml: Any, handle: Any, index: int) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    reasons = _asked(nvml, _clock_reasons, nvml, handle) or 0
    ecc = _asked(nvml, nvml.nvmlDeviceGetTotalEccErrors, handle,
                 nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)  # fmt: skip
    mig = _asked(nvml, nvml.nvmlDeviceGetMigMode, handle)
    throttled = tuple(text for bit, text in _SLOWDOWNS.items() if reasons & bit)
    rates = _asked(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    return Gpu(
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)), name=_text(nvml.nvmlDeviceGetName(handle)),
        index=index, total=int(memory.total), free=int(memory.free),
        utilisation=None if rates is None else rates.gpu / 100,
        temperature=_asked(nvml, nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
        ecc_errors=ecc, throttled=throttled,
        sickness=_sickness(nvml, handle, ecc, throttled if reasons & _OF_HARDWARE else ()),
        unusable=MIG_IS_ON if mig and mig[0] else "",
        processes=_processes(nvml, handle),
    )  # fmt: skip


def _instances(nvml: Any, handle: Any, whole: Gpu) -> Iterator[Gpu]:
    """Yield a GPU's MIG instances, which share its health and its utilisation."""
    for place in range(_asked(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = _asked(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place)
        if part is None:
            continue
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(part)
            uuid, name = _text(nvml.nvmlDeviceGetUUID(part)), _text(nvml.nvmlDeviceGetName(part))
        except nvml.NVMLError:
            continue  # it was destroyed meanwhile
        yield Gpu(
            uuid=uuid, name=name, index=whole.index, parent=whole.uuid, total=int(memory.total),
            free=int(memory.free), temperature=whole.temperature, ecc_errors=whole.ecc_errors,
            throttled=whole.throttled, sickness=whole.sickness, processes=_processes(nvml, part),
        )  # fmt: skip


def _clock_reasons(nvml: Any, handle: Any) -> int:
    # The older name is all that drivers before 535 know.
    with contextlib.suppress(nvml.NVMLError, AttributeError):
        return int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    return int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def _sickness(nvml: Any, handle: Any, ecc: int | None, throttled: tuple[str, ...]) -> str:
    found: list[str] = []
    if ecc:
        found.append(f"{ecc} uncorrected ECC errors")
    rows = _asked(nvml, nvml.nvmlDeviceGetRemappedRows, handle)
    if rows is not None and rows[3]:
        found.append("a memory row could not be remapped")
    elif rows is not None and rows[2]:
        found.append("a remapped memory row waits for a reset")
    if _asked(nvml, nvml.nvmlDeviceGetRetiredPagesPendingStatus, handle):
        found.append("a retired memory page waits for a reset")
    return ", ".join([*found, *throttled])


def _processes(nvml: Any, handle: Any) -> dict[int, int]:
    found: dict[int, int] = {}
    for process in _asked(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ():
        used = process.usedGpuMemory
        found[process.pid] = -1 if used is None else found.get(process.pid, 0) + int(used)
    return found


def _asked(nvml: Any, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call; None where this GPU or driver does not support that."""
    try:
        return call(*arguments)
    except (
        nvml.NVMLError_NotSupported, nvml.NVMLError_NotFound, nvml.NVMLError_NoPermission,
        nvml.NVMLError_FunctionNotFound, nvml.NVMLError_InvalidArgument,
    ):  # fmt: skip
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
