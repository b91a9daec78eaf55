"""Each file of commands/ is a program: `python -m` runs it, and does not pass over it in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
COMMANDS = sorted(path.stem for path in (ROOT / "finetune/commands").glob("[!_]*.py"))


@pytest.mark.parametrize("name", COMMANDS)
def test_python_m_runs_it(name, tmp_path):
    script = ["sft", "--config", str(ROOT / "workspace/configs/sft.yaml")] if name in ("sft", "finetune") else []
    command = [sys.executable, "-m", f"finetune.commands.{name}", *script, "--help"]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "MIRROR_RUN_DIR": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr
