"""A pynvml without a driver: eight GPUs, some full, some in MIG instances, one sick.

Its names, signatures and errors are those of nvidia-ml-py.
"""

from types import ModuleType, SimpleNamespace
from typing import Any

GIB = 1 << 30


class NVMLError(Exception):
    """Base of NVML's errors."""


class NVMLError_NotSupported(NVMLError):
    pass


class NVMLError_NotFound(NVMLError):
    pass


class NVMLError_NoPermission(NVMLError):
    pass


class NVMLError_FunctionNotFound(NVMLError):
    pass


class NVMLError_InvalidArgument(NVMLError):
    pass


class NVMLError_GpuIsLost(NVMLError):
    pass


class NVMLError_LibraryNotFound(NVMLError):
    pass


class NVMLError_DriverNotLoaded(NVMLError):
    pass


def gpu(uuid: str, total: float = 80, free: float = 80, **more: Any) -> SimpleNamespace:
    """One device; sizes in GiB."""
    known = {"name": "NVIDIA H100", "ecc": 0, "reasons": 1, "rows": (0, 0, 0, 0), "processes": {},
             "mig": None, "lost": False, "utilisation": 7}  # fmt: skip
    return SimpleNamespace(uuid=uuid, total=int(total * GIB), free=int(free * GIB),
                           **known | more)  # fmt: skip


def eight() -> list[SimpleNamespace]:
    """What the tests' machine has."""
    return [
        gpu("GPU-0000aaaa", free=12, processes={4242: 60 * GIB}),
        gpu("GPU-1111bbbb", free=0.2),  # full
        gpu("GPU-2222cccc", ecc=12),  # sick
        gpu("GPU-3333dddd", mig=[gpu("MIG-3a", 20, 20), None, gpu("MIG-3b", 10, 10)]),
        gpu("GPU-4444eeee", free=40),
        gpu("GPU-5555ffff", free=0.1),  # full
        gpu("GPU-66660000", reasons=0x40),  # too hot
        gpu("GPU-77771111", lost=True),
    ]


class FakeNvml(ModuleType):
    """What ``import pynvml`` gives."""

    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    NVML_TEMPERATURE_GPU = 0

    def __init__(
        self, gpus: list[SimpleNamespace] | None = None, failure: NVMLError | None = None
    ) -> None:
        super().__init__("pynvml")
        self.gpus = eight() if gpus is None else gpus
        self.failure = failure
        self.starts = 0
        for error in (NVMLError, *NVMLError.__subclasses__()):
            setattr(self, error.__name__, error)

    def nvmlInit(self) -> None:
        if self.failure is not None:
            raise self.failure
        self.starts += 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "575.57.08"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, handle: Any) -> bytes:
        return handle.uuid.encode()  # older versions give bytes

    def nvmlDeviceGetName(self, handle: Any) -> str:
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        if handle.lost:
            raise NVMLError_GpuIsLost("GPU is lost")
        return SimpleNamespace(
            total=handle.total, free=handle.free, used=handle.total - handle.free
        )

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        return SimpleNamespace(gpu=handle.utilisation, memory=0)

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:
        assert sensor == 0
        return 41

    def nvmlDeviceGetTotalEccErrors(self, handle: Any, kind: int, counter: int) -> int:
        assert (kind, counter) == (1, 0)
        if handle.ecc is None:
            raise NVMLError_NotSupported("Not Supported")
        return handle.ecc

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: Any) -> int:
        return handle.reasons

    def nvmlDeviceGetRemappedRows(self, handle: Any) -> tuple[int, int, int, int]:
        return handle.rows

    def nvmlDeviceGetRetiredPagesPendingStatus(self, handle: Any) -> int:
        raise NVMLError_NotSupported("Not Supported")

    def nvmlDeviceGetMigMode(self, handle: Any) -> list[int]:
        return [int(handle.mig is not None)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> Any:
        if index >= len(handle.mig) or handle.mig[index] is None:
            raise NVMLError_NotFound("Not Found")
        return handle.mig[index]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> list[Any]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=used)
                for pid, used in handle.processes.items()]  # fmt: skip
