"""The workspace's shell scripts: what they hand on, from any folder; Python is a stub that echoes."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import sysconfig
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
    chooses = script in ("sft.sh", "sft_mixed.sh", "finetune.sh", "verify.sh", "infer.sh")
    gpus = "unset" if chooses else "0"  # chosen in Python, by what there is to do
    assert done.stdout == f"safe=1 cuda={gpus} python -I -m {expected} --system a b 你是谁?\n"


def test_the_user_s_choice_of_gpus_stays(run, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert "cuda=2" in run("sft.sh").stdout
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    assert "cuda=unset" in run("sft.sh").stdout


@pytest.fixture
def python_3_10(tmp_path, monkeypatch):
    """A `python` on PATH that does not know PYTHONSAFEPATH, with the project installed as the image has it (a .pth).

    EMULATED: this Python with the variable taken away, which is how 3.10 treats it.
    """
    made = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(made)], check=True)
    packages = made / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    places = {str(WORKSPACE.parent), sysconfig.get_path("purelib"), *site.getsitepackages()}
    (packages / "mirror.pth").write_text("\n".join(sorted(places)) + "\n")
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin/python"
    wrapper.write_text(f'#!/bin/sh\nunset PYTHONSAFEPATH\nexec {made}/bin/python "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("MIRROR_PYTHON", str(wrapper))
    monkeypatch.setenv("MIRROR_ROOT", str(WORKSPACE.parent))
    return wrapper


@pytest.fixture
def planted(tmp_path):
    """A working folder with files of the user's that are named as Python's own modules are."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("json", "random", "types", "signal", "argparse", "torch"):
        (folder / f"{name}.py").write_text(f"import os\nos.write(2, b'the {name}.py of the user ran')\nos._exit(9)\n")
    return folder


@pytest.mark.parametrize("script", sorted(path.name for path in WORKSPACE.glob("*.sh")))
def test_a_json_py_in_the_working_folder_is_harmless_without_pythonsafepath(python_3_10, planted, script):
    done = subprocess.run([str(WORKSPACE / script), "--help"], cwd=planted, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "of the user ran" not in done.stderr, done.stderr
    assert done.stdout.startswith("usage:")


def test_the_emulation_would_show_it(python_3_10, planted):
    done = subprocess.run(
        [str(python_3_10), "-m", "finetune.commands.sft"], cwd=planted, capture_output=True, text=True, timeout=60
    )
    assert "of the user ran" in done.stderr


@pytest.mark.parametrize("launcher", ["check-data", "plan", "swift", "healthcheck"])
def test_it_is_harmless_to_the_launchers(python_3_10, planted, launcher):
    command = [str(WORKSPACE.parent / "entrypoint/bin" / launcher), "--help"]
    done = subprocess.run(command, cwd=planted, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "of the user ran" not in done.stderr, done.stderr


def test_it_is_harmless_to_what_a_training_starts(python_3_10, planted):
    """The loss curve is drawn by a process of its own; its command is the one that common.errors.command gives."""
    from common.errors import command

    words = [str(python_3_10), *command("finetune.engines.fast.curves")[1:], "--help"]
    done = subprocess.run(words, cwd=planted, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "of the user ran" not in done.stderr, done.stderr
