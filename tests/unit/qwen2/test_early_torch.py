"""qwen2/early_torch.py: torch imported once, in a thread, and what goes wrong with it handed over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def python(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": ":".join(map(str, (*paths, ROOT))), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-c", code]
    return subprocess.run(line, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=120)


def test_torch_is_there_after_the_wait() -> None:
    done = python(
        "import sys; from qwen2 import early_torch; assert 'torch' not in sys.modules; early_torch.begin();"
        "assert early_torch.wait() is None; print(sorted({'torch', *early_torch.WANTED} - {*sys.modules}))"
    )
    assert done.stdout == "[]\n", done.stderr


def test_a_broken_import_is_handed_over(tmp_path: Path) -> None:
    """wait() gives the exception; no thread prints a traceback."""
    (tmp_path / "torch.py").write_text("raise RuntimeError('mounted over')\n")
    done = python("from qwen2 import early_torch; early_torch.begin(); print(repr(early_torch.wait()))", tmp_path)
    assert (done.stdout, done.stderr) == ("RuntimeError('mounted over')\n", "")


def test_a_broken_triton_is_left_to_what_uses_it(tmp_path: Path) -> None:
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("raise RuntimeError('no such driver')\n")
    code = "from qwen2 import early_torch; early_torch._hash_triton(); print('left')"
    done = python(code, tmp_path)
    assert (done.stdout, done.stderr) == ("left\n", "")


def test_begin_starts_one_import() -> None:
    done = python(
        "from qwen2 import early_torch, early_cuda\n"
        "for _ in range(3): early_torch.begin(); early_cuda.start_cuda()\n"
        "import threading; print(sum(t.name == 'import-torch' for t in threading.enumerate()))"
    )
    assert done.stdout == "1\n", done.stderr
