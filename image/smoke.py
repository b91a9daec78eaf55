"""The last check of the package layers, at build time: nothing needed was removed by requirements/unused.txt.

Called by the Dockerfile. Exit code 1, with a line for each fault, if a library of torch cannot be resolved, a package
cannot be imported, or Triton cannot compile. Needs no GPU; parts that the CPU build lacks are skipped.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

PACKAGES = [
    *("torch", "torch.distributed", "torch.testing", "torch.utils.tensorboard", "torch._inductor.compile_fx"),
    *("transformers", "peft", "trl", "accelerate", "datasets", "modelscope", "swift", "swift.pipelines"),
    *("bitsandbytes", "tensorboard.main", "openpyxl", "pyarrow.parquet", "pyarrow.dataset"),
    *("gguf", "xllamacpp"),
    *("pandas", "scipy.stats", "sympy", "matplotlib.pyplot"),
]
WITH_TRITON = ["liger_kernel.transformers"]
BITSANDBYTES = Path("/opt/bitsandbytes")
DRIVER = ("libcuda.so.1",)  # comes with the GPU
HAS_TRITON = importlib.util.find_spec("triton") is not None  # the CUDA build


def unresolved(site: Path) -> list[str]:
    """Libraries of torch, of the wheels that it loads and of pyarrow, with an unresolved dependency."""
    files = [*site.glob("torch/lib/*.so*"), *site.glob("torch/_C*.so"), *site.glob("triton/_C/*.so")]
    files += [*site.glob("pyarrow/*.so*"), *site.glob("nvidia/*/lib/lib*.so*")]
    faults = []
    for file in files:
        lines = subprocess.run(["ldd", str(file)], capture_output=True, text=True).stdout.splitlines()
        missing = [line.split()[0] for line in lines if "not found" in line]
        faults += [f"{file}: {name} is not found" for name in missing if name not in DRIVER]
    return faults


def import_all() -> list[str]:
    """Packages that cannot be imported."""
    faults = []
    sys.path.append(str(BITSANDBYTES))
    for name in PACKAGES + (WITH_TRITON if HAS_TRITON else []):
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever the exception, the build must fail
            faults.append(f"import {name}: {error!r}")
    return faults


def load_bitsandbytes() -> list[str]:
    """Load its CUDA library, which finds torch's only after torch has loaded them."""
    if not HAS_TRITON:
        return []
    try:
        ctypes.CDLL(str(BITSANDBYTES / "bitsandbytes/libbitsandbytes_cuda128.so"))
    except OSError as error:
        return [str(error)]
    return []


KERNEL = """
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.language.extra import libdevice

@triton.jit
def kernel(x, y, n: tl.constexpr):
    at = tl.arange(0, n)
    tl.store(y + at, libdevice.tanh(tl.exp(tl.load(x + at))))

source = ASTSource(kernel, signature={"x": "*fp32", "y": "*fp32", "n": "constexpr"}, constexprs={"n": 128})
for capability in (80, 86, 89, 90, 100, 120):
    assert len(triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]) > 1000
"""


def compile_kernels() -> list[str]:
    """Compile machine code for each GPU generation with Triton, and its C driver module against Python.h and cuda.h."""
    if not HAS_TRITON:
        return []
    import triton

    backend = Path(triton.__file__).parent / "backends" / "nvidia"
    python = sysconfig.get_paths()["include"]
    with tempfile.TemporaryDirectory() as folder:
        kernel = Path(folder) / "kernel.py"  # a file, because Triton reads the source
        kernel.write_text(KERNEL)
        gcc: list[str | Path] = ["gcc", "-shared", "-fPIC", "-I", backend / "include", "-I", python]
        commands: dict[str, list[str | Path]] = {
            "Triton for sm_80 to sm_120": ["env", f"TRITON_CACHE_DIR={folder}/cache", sys.executable, kernel],
            "Triton's driver.c": [*gcc, backend / "driver.c", "-o", f"{folder}/driver.so"],
        }
        done = {name: subprocess.run(command, capture_output=True, text=True) for name, command in commands.items()}
    return [f"{name}: {result.stderr[-2000:]}" for name, result in done.items() if result.returncode]


def main() -> int:
    site = Path(next(place for place in sys.path if place.endswith("site-packages")))
    faults = unresolved(site) + import_all() + load_bitsandbytes() + compile_kernels()
    for fault in faults:
        print(f"error: {fault}; is it in requirements/unused.txt?", file=sys.stderr)
    print(f"smoke: {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
