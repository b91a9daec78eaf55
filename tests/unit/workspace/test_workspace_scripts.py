"""The workspace's shell scripts: what they hand on, from any folder; Python is a stub that echoes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

WORKSPACE = Path(__file__).parents[3] / "workspace"
STUB_PYTHON = """#!/bin/sh
# A stub of Python.
echo "safe=$PYTHONSAFEPATH cuda=${CUDA_VISIBLE_DEVICES-unset} python $*"
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs a script of a copied workspace, with a stub of Python, from another folder."""
    for script in WORKSPACE.glob("*.sh"):
        shutil.copy(script, tmp_path)
    (tmp_path / "bin").mkdir()
    for name, text in (("bin/python", STUB_PYTHON),):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.delenv("NPROC_PER_NODE", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(tmp_path / words[0]), *words[1:]], capture_output=True, text=True, cwd="/")

    call.folder = tmp_path  # type: ignore[attr-defined]
    return call


@pytest.mark.parametrize(
    ("script", "called"),
    [
        ("sft.sh", "finetune.commands.sft sft --config {0}/configs/sft.yaml"),
        ("sft_mixed.sh", "finetune.commands.sft sft_mixed --config {0}/configs/sft_mixed.yaml"),
        ("infer.sh", "finetune.commands.infer --config {0}/configs/infer.yaml"),
        ("verify.sh", "finetune.commands.verify --config {0}/configs/verify.yaml"),
        ("merge.sh", "finetune.commands.merge --questions {0}/questions"),
        ("export.sh", "finetune.commands.export --questions {0}/questions"),
        ("serve.sh", "finetune.commands.serve --config {0}/configs/serve.yaml"),
        (
            "finetune.sh",
            "finetune.commands.finetune sft --config {0}/configs/sft.yaml --verify-config {0}/configs/verify.yaml",
        ),
    ],
)
def test_a_script_hands_its_words_on(run, script, called):
    done = run(script, "--system", "a b", "你是谁?")
    expected = called.format(run.folder)
    assert done.stdout == f"safe=1 cuda=0 python -m {expected} --system a b 你是谁?\n"


def test_the_user_s_choice_of_gpus_stays(run, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert "cuda=2" in run("sft.sh").stdout
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    assert "cuda=unset" in run("sft.sh").stdout
