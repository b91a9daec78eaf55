"""An adapter that the real ms-swift trains with FSDP2 in two processes (gloo) is taken by verify, in both engines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.finetune import fast_home
from tests.unit.finetune.real_swift import ROOT

pytestmark = pytest.mark.flow

FSDP = (
    "--fsdp", str(ROOT / "workspace/configs/fsdp2.json"), "--gradient_checkpointing", "false",
    "--torch_dtype", "float32", "--max_steps", "2", "--save_steps", "2",
)  # fmt: skip


def test_an_adapter_of_fsdp_is_asked_by_both_engines(tmp_path: Path, official_tokenizer_dir: Path) -> None:
    home, output = fast_home.make(tmp_path / "home", official_tokenizer_dir), tmp_path / "output"
    done = fast_home.command(home, output, *FSDP, "--run", "job", ENGINE="swift", NPROC_PER_NODE="2")
    assert done.returncode == 0, done.stderr[-3000:]
    asked = []
    for engine in ("qwen2", "transformers"):
        words = ["--config", str(ROOT / "workspace/configs/verify.yaml"), "--engine", engine, "--max-new-tokens", "8"]
        words += ["--output", str(tmp_path / engine)]
        done = subprocess.run(
            [sys.executable, "-m", "finetune.commands.verify", *words],
            cwd=home, env=fast_home.environ(home, output), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr  # a tiny model passes nothing
        report = json.loads((tmp_path / engine / "report.json").read_text())
        assert report["engine"] == engine
        asked.append(
            [[said["text"] for said in each["answers"].values()] for q in report["questions"] for each in q["asked"]]
        )
    assert asked[0] == asked[1]
