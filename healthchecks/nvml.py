"""What the driver reports about its GPUs, through NVML (no CUDA context, no memory used); for checks/driver.py.

`pynvml` (PyPI nvidia-ml-py) is the boundary where tests use a stub, since most of these faults cannot be provoked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class NvmlProblem(Exception):
    """NVML does not respond; `kind` is library-missing, not-loaded, mismatch, no-permission, lost or other."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class Gpu:
    """One GPU as NVML sees it; memory in bytes."""

    name: str
    uuid: str
    capability: tuple[int, int]
    total: int
    free: int
    processes: list[tuple[int, int | None, str]] = field(default_factory=list)  # pid, bytes (None: hidden), name
    mig: bool = False  # the memory is that of the first MIG instance


@dataclass
class Driver:
    """The driver's version, the newest CUDA version it supports, as (major, minor), and its GPUs in PCI order."""

    version: str
    cuda: tuple[int, int]
    gpus: list[Gpu]


KINDS = {
    "NVML_ERROR_LIBRARY_NOT_FOUND": "library-missing",
    "NVML_ERROR_DRIVER_NOT_LOADED": "not-loaded",
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": "mismatch",
    "NVML_ERROR_NO_PERMISSION": "no-permission",
    "NVML_ERROR_GPU_IS_LOST": "lost",
    "NVML_ERROR_RESET_REQUIRED": "lost",
    "NVML_ERROR_NOT_FOUND": "lost",
}


def read(nvml: Any) -> Driver:
    """Query the driver once. `nvml` is the module pynvml or a stub of it. Raises NvmlProblem if it cannot respond."""
    try:
        nvml.nvmlInit()
        try:
            cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
            count = nvml.nvmlDeviceGetCount()
            return Driver(
                version=_text(nvml.nvmlSystemGetDriverVersion()),
                cuda=(cuda // 1000, cuda % 1000 // 10),
                gpus=[_gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)],
            )
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        raise _problem(nvml, error) from error


def _gpu(nvml: Any, handle: Any) -> Gpu:
    counted = _memory_handle(nvml, handle)
    memory = nvml.nvmlDeviceGetMemoryInfo(counted)
    return Gpu(
        name=_text(nvml.nvmlDeviceGetName(handle)),
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        capability=tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)),
        total=memory.total,
        free=memory.free,
        processes=_processes(nvml, handle),
        mig=counted is not handle,
    )


def _memory_handle(nvml: Any, handle: Any) -> Any:
    """The first MIG instance if the GPU is partitioned (its own memory counts), else the GPU itself."""
    try:
        if nvml.nvmlDeviceGetMigMode(handle)[0]:
            return nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, 0)
    except nvml.NVMLError:
        pass  # no MIG on this GPU
    return handle


def _processes(nvml: Any, handle: Any) -> list[tuple[int, int | None, str]]:
    try:
        found = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:
        return []  # unsupported (WSL) or not allowed (another container's): the free memory still shows it
    result = []
    for process in found:
        try:
            name = _text(nvml.nvmlSystemGetProcessName(process.pid))
        except nvml.NVMLError:
            name = "?"  # it runs in another container
        result.append((process.pid, process.usedGpuMemory, name))
    return result


def _problem(nvml: Any, error: Any) -> NvmlProblem:
    for name, kind in KINDS.items():
        if getattr(error, "value", None) == getattr(nvml, name, object()):
            return NvmlProblem(kind, str(error))
    return NvmlProblem("other", str(error))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
