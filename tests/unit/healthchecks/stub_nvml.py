"""A STUB of the module pynvml, for GPU faults that cannot be had at will; used as Context.nvml, and as /stub/pynvml.py.

In a container, STUB_NVML_FAULT picks the fault, so that whole commands can be tried against it.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

GIB = 1 << 30

NVML_ERROR_NO_PERMISSION = 4
NVML_ERROR_NOT_FOUND = 6
NVML_ERROR_DRIVER_NOT_LOADED = 9
NVML_ERROR_LIBRARY_NOT_FOUND = 12
NVML_ERROR_GPU_IS_LOST = 15
NVML_ERROR_RESET_REQUIRED = 16
NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18
NVML_ERROR_UNKNOWN = 999


class NVMLError(Exception):
    """As pynvml's: the number of the error is `value`."""

    def __init__(self, value: int) -> None:
        super().__init__(f"stub NVML error {value}")
        self.value = value


class StubNvml:
    """One GPU and its driver, in good health unless told otherwise; the attributes are what tests change."""

    NVMLError = NVMLError
    NVML_ERROR_NO_PERMISSION = NVML_ERROR_NO_PERMISSION
    NVML_ERROR_NOT_FOUND = NVML_ERROR_NOT_FOUND
    NVML_ERROR_DRIVER_NOT_LOADED = NVML_ERROR_DRIVER_NOT_LOADED
    NVML_ERROR_LIBRARY_NOT_FOUND = NVML_ERROR_LIBRARY_NOT_FOUND
    NVML_ERROR_GPU_IS_LOST = NVML_ERROR_GPU_IS_LOST
    NVML_ERROR_RESET_REQUIRED = NVML_ERROR_RESET_REQUIRED
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = NVML_ERROR_LIB_RM_VERSION_MISMATCH

    def __init__(self) -> None:
        self.init_error: int | None = None
        self.memory_error: int | None = None
        self.driver, self.cuda = "570.86.15", 12080
        self.capability = (8, 9)
        self.total, self.free = 24 * GIB - (20 << 20), int(23.5 * GIB)
        self.count = 1
        self.processes: list[tuple[int, int | None]] = []
        self.mig = False
        self.opened = 0  # nvmlInit less nvmlShutdown

    def nvmlInit(self) -> None:
        if self.init_error is not None:
            raise NVMLError(self.init_error)
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return self.driver

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return self.cuda

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"Stub GPU {handle}"

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle:08d}-0000"

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return self.capability

    def nvmlDeviceGetMigMode(self, handle: int) -> list[int]:
        return [int(self.mig), int(self.mig)]

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: int, index: int) -> str:
        return "mig"

    def nvmlDeviceGetMemoryInfo(self, handle: int | str) -> SimpleNamespace:
        if self.memory_error is not None:
            raise NVMLError(self.memory_error)
        if handle == "mig":
            return SimpleNamespace(total=10 * GIB, free=10 * GIB)
        return SimpleNamespace(total=self.total, free=self.free)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.processes]

    def nvmlSystemGetProcessName(self, pid: int) -> str:
        if pid > 100_000:
            raise NVMLError(NVML_ERROR_NOT_FOUND)
        return "/usr/bin/python3"


FAULTS: dict[str, dict[str, object]] = {
    "healthy": {},
    "lost": {"memory_error": NVML_ERROR_GPU_IS_LOST},
    "old-driver": {"driver": "470.57.02", "cuda": 11040},
    "old-gpu": {"capability": (7, 5)},
    "busy": {"free": 3 * GIB, "processes": [(4242, 20 * GIB), (123456, None)]},
}


def of_fault(name: str) -> StubNvml:
    """A stub with a fault of FAULTS."""
    stub = StubNvml()
    for attribute, value in FAULTS[name].items():
        setattr(stub, attribute, value)
    return stub


if os.environ.get("STUB_NVML_FAULT"):  # this file lies somewhere as pynvml.py
    _stub = of_fault(os.environ["STUB_NVML_FAULT"])
    globals().update({name: getattr(_stub, name) for name in dir(_stub) if name.startswith("nvml")})
