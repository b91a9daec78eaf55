"""What several benchmarks ask of the machine: its name, the GPU's memory, peaks while a block runs, GPU times."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def _nvidia_smi(field: str) -> str:
    """A field of the first GPU according to nvidia-smi; "" without one."""
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits", "-i", "0"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def device() -> str:
    """The first GPU's name, or the CPU's cores and model."""
    return _nvidia_smi("name") or f"CPU, {os.cpu_count()} cores, {platform.machine()}"


def gpu_mib() -> int | None:
    """MiB in use on the first GPU: allocator, context and graphs of all processes; None without one."""
    used = _nvidia_smi("memory.used")
    return int(used) if used.isdigit() else None


def environment(model: str, out: str, state: str) -> dict[str, str]:
    """This process's variables, for a command of this checkout: its model, output folder and run folder."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"MODEL_DIR": model, "OUTPUT_DIR": out, "MIRROR_RUN_DIR": state, "PYTHONPATH": path}


class Peak:
    """The largest value that `read` returns while the block runs, and the block's seconds.

    `with Peak(gpu_mib) as peak: ...`, then peak.value and peak.seconds.
    """

    def __init__(self, read: Callable[[], float | None], every_s: float = 0.05) -> None:
        """Sample `read` every `every_s` seconds in a thread; None counts as 0."""
        self.value: float = 0
        self._read, self._every_s, self._stop = read, every_s, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        self._began = time.perf_counter()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(self._every_s):
            self.value = max(self.value, self._read() or 0)

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self._stop.set()
        self._thread.join()


def free_memory() -> None:
    """Give unused memory back to the GPU. On a CPU, PyTorch's call does nothing."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def gpu_ms(work: Callable[[], Any], repeats: int) -> float:
    """The median time of `work` on the GPU in milliseconds, by CUDA events, after a warm-up."""
    import torch

    work()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)
