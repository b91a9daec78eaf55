"""No name is new in the environment once threads read it: C moves its list of names then, under their eyes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.engines.fast import loaded_model
from tests.unit.finetune import fast_home

# Runs a command and prints the names that were new to the environment after the first of qwen2's threads was started.
WATCHED = """
import json, os, sys, threading
started, new = [], []
def watch(event, arguments):
    if event == "os.putenv" and started:
        name = os.fsdecode(arguments[0])
        if name not in os.environ:
            new.append(name)
begin = threading.Thread.start
def start(self):
    if self.name in ("import-torch", "cuda-start", "hash-triton"):
        started.append(self.name)
    begin(self)
threading.Thread.start = start
sys.addaudithook(watch)
from importlib import import_module
from common.errors import run_main
command, *words = sys.argv[1:]
code = run_main(lambda: import_module(f"finetune.commands.{command}").main(words))
print("WATCHED", json.dumps({"code": code, "started": started, "new": new}))
"""


def watched(home: Path, output: Path, command: str, *words: str, **more: str) -> dict[str, object]:
    environ = fast_home.environ(home, output, **more)
    for name in ("OPENBLAS_MAIN_FREE", "GOTOBLAS_MAIN_FREE", "CUDA_MODULE_LOADING", "MIRROR_JOB"):
        environ.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, command, *words], env=environ, cwd=home, capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("WATCHED ")]
    assert lines, done.stderr
    return dict(json.loads(lines[-1].removeprefix("WATCHED ")))


@pytest.mark.parametrize("processes", ["1", "2"])
def test_training_and_verify_put_no_new_name_beside_threads(
    tmp_path: Path, official_tokenizer_dir: Path, processes: str
) -> None:
    home = fast_home.make(tmp_path / "home", official_tokenizer_dir)
    output = tmp_path / "output"
    words = fast_home.words(home, "--max_steps", "2", "--run", "r")
    trained = watched(home, output, "sft", *words, NPROC_PER_NODE=processes)
    assert trained["code"] == 0
    assert "import-torch" in list(trained["started"])  # type: ignore[call-overload]
    assert trained["new"] == []
    questions = os.path.join(fast_home.ROOT, "workspace/configs/verify.yaml")
    asked = watched(
        home, output, "verify", "--config", questions, str(output / "r"), "--max-new-tokens", "2",
        NPROC_PER_NODE=processes,
    )  # fmt: skip
    assert asked["code"] in (0, 1)
    assert asked["new"] == []


def test_the_names_are_reserved_before_cuda_and_torch_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = loaded_model.RESERVED
    assert {loaded_model.PARENT, *loaded_model.LOOPBACK, "CUDA_MODULE_LOADING", "OPENBLAS_MAIN_FREE"} <= set(names)
    for name in names:
        monkeypatch.setenv(name, "")  # so that it is taken away again after the test
        monkeypatch.delenv(name)
    missing: list[list[str]] = []

    def start() -> None:
        missing.append([name for name in names if name not in os.environ])

    monkeypatch.setattr("qwen2.early_cuda.start_cuda", start)
    monkeypatch.setattr("qwen2.early_torch.begin", start)
    loaded_model.Lane(tmp_path, "cuda")
    assert missing == [[], []]
