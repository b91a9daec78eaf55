"""The workspace's shell scripts: what they hand on, from any folder; the scripts they call are stubs that echo."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

WORKSPACE = Path(__file__).parents[3] / "workspace"
STUB_SFT = """#!/bin/sh
# A stub of sft.sh.
echo "sft $*"
if [ "${1:-}" = --adapter-to ]; then echo "/out/run 1/checkpoint-40" >"$2"; fi
exit "${STUB_SFT_CODE:-0}"
"""
STUB_VERIFY = """#!/bin/sh
# A stub of verify.sh.
echo "verify $1 [$2]"
exit "${STUB_VERIFY_CODE:-0}"
"""
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
        ("sft.sh", "finetune.train sft --config {0}/configs/sft.yaml"),
        ("sft_mixed.sh", "finetune.train sft_mixed --config {0}/configs/sft_mixed.yaml"),
        ("infer.sh", "finetune.infer --config {0}/configs/infer.yaml"),
        ("verify.sh", "finetune.verify --config {0}/configs/verify.yaml"),
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


@pytest.fixture
def finetune(run):
    """finetune.sh between stubs of the two scripts that it calls."""
    for name, text in (("sft.sh", STUB_SFT), ("verify.sh", STUB_VERIFY)):
        (run.folder / name).write_text(text)
    return lambda *words: run("finetune.sh", *words)


def test_finetune_verifies_the_run_just_made(finetune):
    done = finetune("--num_train_epochs", "3")
    first, second = done.stdout.splitlines()
    assert first.startswith("sft --adapter-to ") and first.endswith(" --num_train_epochs 3")
    assert second == "verify --adapter [/out/run 1/checkpoint-40]"
    assert done.returncode == 0
    assert not Path(first.split()[2]).exists()


@pytest.mark.parametrize(("variable", "code", "lines"), [("STUB_SFT_CODE", 2, 1), ("STUB_VERIFY_CODE", 1, 2)])
def test_finetune_ends_with_the_code_of_what_failed(finetune, monkeypatch, variable, code, lines):
    monkeypatch.setenv(variable, str(code))
    done = finetune()
    assert done.returncode == code
    assert len(done.stdout.splitlines()) == lines


@pytest.mark.parametrize("option", ["--help", "-h", "--show"])
def test_finetune_has_nothing_to_verify_where_nothing_is_trained(finetune, option):
    assert finetune(option).stdout == f"sft {option}\n"


def test_finetune_may_be_edited_while_it_runs(finetune, run):
    script = run.folder / "finetune.sh"
    (run.folder / "sft.sh").write_text(STUB_SFT.replace("exit ", f"echo 'broken \"' >{script}; exit "))
    done = finetune()
    assert done.returncode == 0, done.stderr
    assert "verify --adapter" in done.stdout
