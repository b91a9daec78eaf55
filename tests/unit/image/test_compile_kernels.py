"""image/compile_kernels.py compiles what training, answers and the health check launch; these tests need Triton.

No GPU: the same launches are made on the CPU with Triton told to compile and not to launch, for each capability.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.qwen2.tiny import make_tiny

ROOT = Path(__file__).resolve().parents[3]
TRITON = "/opt/triton"  # the test stage puts it there where torch is the CPU build, which brings none

LAUNCHES = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, str(Path(sys.argv[1]) / "image"))
import compile_kernels
from triton.runtime.driver import driver
from triton.runtime.jit import KernelInterface
from qwen2 import ops, ops_triton
from qwen2.generate import generate
from qwen2.lora import Adapter
from qwen2.model import Model
from qwen2.training.loop import TrainSettings, train
from tests.unit.qwen2.tiny import make_rows

ops.kernels_for = lambda x: ops_triton
launched = []
KernelInterface.__getitem__ = lambda self, grid: lambda *a, **k: launched.append(self.warmup(*a, grid=grid, **k))
model = Model.load(sys.argv[2], "cpu", torch.bfloat16)
for capability in compile_kernels.CAPABILITIES:
    driver.set_active(compile_kernels.NoDriver(capability))
    before = len(launched)
    for dropout in (0.05, 0.0):
        adapter = Adapter(model.config, 8, 32)
        adapter.initialize(3)
        settings = TrainSettings(num_train_epochs=1, lora_dropout=dropout, batch_size=7, logging_steps=50)
        try:
            train(model, make_rows(40), settings, Path(sys.argv[3]) / f"{capability}-{dropout}", adapter=adapter)
        except Exception as error:  # nothing is computed, so that the loss may be anything
            if type(error).__name__ != "DivergedError":
                raise
        for rows in (1, 2, 3, 5):
            generate(model, [[5, 6, 7, 8]] * rows, 3, adapter=adapter)
    model.forward(torch.arange(33)[None])
    assert len(launched) - before > 100, launched
print(len({kernel.hash for kernel in launched}), "kernels")
"""


def python(tree: Path, code: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    paths = [str(tree), *([] if importlib.util.find_spec("triton") else [TRITON]), str(ROOT)]
    env = os.environ | {"PYTHONPATH": ":".join(paths), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run([sys.executable, *code], capture_output=True, text=True, env=env, cwd=tree, timeout=600)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a tree with qwen2/compiled, the model's folder that it was compiled for)"""
    if not importlib.util.find_spec("triton") and not Path(TRITON, "triton").is_dir():
        pytest.skip("Triton is not installed")
    tree, model = tmp_path_factory.mktemp("tree"), make_tiny(tmp_path_factory.mktemp("tiny"), tie_word_embeddings=True)
    for package in ("qwen2", "image"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("compiled", "__pycache__"))
    done = python(tree, ["image/compile_kernels.py", str(model)])
    assert done.returncode == 0, done.stderr
    return tree, model


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_is_launched_was_compiled_for_every_capability(built: Any, tmp_path: Path) -> None:
    """No C compiler can start, and nothing is written beside the cache of the image."""
    tree, model = built
    cache = {"CC": "/bin/false", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    done = python(tree, ["-c", LAUNCHES, str(tree), str(model), str(tmp_path)], **cache)
    assert done.returncode == 0, done.stderr[-3000:]
    assert files(tmp_path / "cache") == []


def test_another_shape_is_compiled_beside_it(built: Any, tmp_path: Path) -> None:
    tree, _ = built
    other = make_tiny(tmp_path / "other", hidden_size=128, tie_word_embeddings=True)
    before = files(tree / "qwen2" / "compiled")
    code = LAUNCHES.replace("compile_kernels.CAPABILITIES", "(90,)")
    done = python(tree, ["-c", code, str(tree), str(other), str(tmp_path)], TRITON_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert any(path.suffix == ".cubin" for path in files(tmp_path / "cache"))
    assert files(tree / "qwen2" / "compiled") == before


def test_launchers_are_there_and_need_the_driver(built: Any) -> None:
    """Linked against libcuda.so.1, which Ubuntu's linker leaves out where the library at hand has no functions."""
    tree, _ = built
    modules = [path for path in files(tree / "qwen2" / "compiled") if path.suffix == ".so"]
    assert any(path.name.startswith("cuda_utils") for path in modules)
    assert any(path.name.startswith("__triton_launcher") for path in modules)
    for path in modules:
        needed = subprocess.run(["ldd", str(path)], capture_output=True, text=True).stdout
        assert "libcuda.so.1" in needed, path


def test_the_cache_is_small(built: Any) -> None:
    tree, _ = built
    assert sum(path.stat().st_size for path in files(tree / "qwen2" / "compiled")) < 60e6
