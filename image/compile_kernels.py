"""Compiles the fast lane's Triton kernels inside `docker build`, without a GPU, for every supported GPU generation.

    python compile_kernels.py MODEL_DIR

qwen2's own warm-up compiles every kernel at the widths in MODEL_DIR's config.json, so the result is exactly what a
launch looks up, including the C modules through which Triton launches kernels. The output goes to the folder
`compiled` of the imported qwen2 (qwen2/kernel_cache.py). Without Triton (the CPU build of torch) it does nothing, and
says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CAPABILITIES = (80, 86, 89, 90, 100, 120)  # A100; 3090; 4090, L40; H100; B200; 5090


class NoDriver:
    """What Triton asks of a driver while it compiles: the target GPU. There is one cache of kernels per `device`."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> Any:
        """The GPU to compile for."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        """Each capability counts as a device."""
        return self.capability

    def get_current_stream(self, device: int) -> int:
        """Nothing is launched."""
        return 0


def compile_for(capability: int, config: Any) -> list[Any]:
    """Compile the kernels of qwen2's warm-up for one capability, into TRITON_CACHE_DIR."""
    from triton.runtime.driver import driver
    from triton.runtime.jit import KernelInterface

    from qwen2 import ops_triton
    from qwen2.serving import lora_triton, paged_triton

    found: list[Any] = []

    def compile_only(kernel: Any, grid: Any) -> Callable[..., None]:
        return lambda *args, **options: found.append(kernel.warmup(*args, grid=grid, **options))

    driver.set_active(NoDriver(capability))
    launch = KernelInterface.__getitem__  # kernel[grid](...) launches; here it only compiles
    KernelInterface.__getitem__ = compile_only
    try:
        ops_triton.self_test("cpu")
        ops_triton.warm_up(config, "cpu", ops_triton.RANKS)
        paged_triton.warm_up(config, "cpu")
        lora_triton.warm_up(config, "cpu")
    finally:
        KernelInterface.__getitem__ = launch
    return found


@contextlib.contextmanager
def linked_without_a_driver() -> Iterator[None]:
    """Allows C modules to be linked against libcuda.so.1, and loaded, without it: the library comes with the GPU.

    The stub has no functions. They are therefore resolved lazily, and the library is linked although it seems unused.
    """
    with tempfile.TemporaryDirectory() as folder:
        stub, compiler = Path(folder) / "libcuda.so.1", Path(folder) / "cc"
        subprocess.run(["gcc", "-shared", "-o", stub, "-Wl,-soname,libcuda.so.1", "-x", "c", "/dev/null"], check=True)
        # $1 is the source, in a folder with a random name, which must not be in the result: builds must be reproducible
        compiler.write_text('#!/bin/sh\nexec gcc -Wl,--no-as-needed -ffile-prefix-map="${1%/*}"=. "$@"\n')
        compiler.chmod(0o755)
        os.environ |= {"TRITON_LIBCUDA_PATH": folder, "CC": str(compiler)}
        ctypes.CDLL(str(stub), mode=ctypes.RTLD_GLOBAL)  # found again by its soname
        flags = sys.getdlopenflags()
        sys.setdlopenflags(os.RTLD_LAZY)
        try:
            yield
        finally:
            sys.setdlopenflags(flags)


def compile_launchers(kernels: list[Any]) -> None:
    """Compile the C modules: Triton's driver, and a launcher for each signature."""
    from triton.backends.nvidia.driver import CudaLauncher, CudaUtils

    with linked_without_a_driver():
        CudaUtils()
        for kernel in kernels:
            CudaLauncher(kernel.src, kernel.metadata)


def main() -> int:
    """Compile everything; returns the exit code."""
    if importlib.util.find_spec("triton") is None:
        print("compile_kernels: no Triton here (the CPU build of torch), so there is nothing to compile")
        return 0
    from triton import knobs

    from qwen2 import kernel_cache
    from qwen2.config import Config

    config = Config.from_dir(Path(sys.argv[1]))
    folder = kernel_cache.COMPILED
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TRITON_CACHE_DIR"] = str(folder)
    os.environ["TRITON_STORE_BINARY_ONLY"] = "1"  # machine code and its metadata, not the intermediate stages
    compilers = [knobs.nvidia.ptxas.path, knobs.nvidia.ptxas_blackwell.path]
    versions = "".join(subprocess.run([path, "--version"], capture_output=True, text=True).stdout for path in compilers)
    knobs.nvidia.mock_ptx_version = versions
    kernels = []
    for capability in CAPABILITIES:
        compiled = compile_for(capability, config)
        print(f"compile_kernels: {len({kernel.hash for kernel in compiled})} kernels for sm_{capability}")
        kernels += compiled
    compile_launchers(kernels)
    for path in (*folder.rglob("lock"), *folder.rglob("tmp.*")):
        path.unlink() if path.is_file() else path.rmdir()
    (folder / kernel_cache.VERSIONS).write_text(versions, encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"compile_kernels: {size / 1e6:.1f} MB in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
