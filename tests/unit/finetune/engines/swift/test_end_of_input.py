"""The plugin for a conversation's end, on a STUB of ms-swift's prompt, in a process that aborts as it is taken down."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.engines.swift.command_line import PLUGINS

STUB = """
class InferCliState:
    def input_text(self):
        return input("<<< ")
"""
# A conversation as ms-swift holds it; then the end of Python, at which an object like a native thread aborts.
PROGRAM = """
import atexit, importlib.util, os, sys
from swift.pipelines.infer.utils import InferCliState

class Thread:
    def __del__(self, abort=os.abort):
        abort()

thread = Thread()
atexit.register(lambda: print("cleaned up"))
if len(sys.argv) > 1:
    spec = importlib.util.spec_from_file_location("end_of_input", sys.argv[1])
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
while (text := InferCliState().input_text()).strip().lower() not in ("exit", "quit"):
    print("answer to", text)
if os.environ.get("FAIL"):
    raise RuntimeError("after the conversation")
"""


@pytest.fixture
def talk(tmp_path: Path):
    """talk(stdin, plugin=True, FAIL=...): exit code, stdout and stderr of a conversation."""
    folder = tmp_path / "swift" / "pipelines" / "infer"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent, folder.parent.parent):
        (package / "__init__.py").touch()
    (folder / "utils.py").write_text(STUB)
    (tmp_path / "program.py").write_text(PROGRAM)

    def run(said: str, plugin: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
        words = [str(PLUGINS / "end_of_input.py")] if plugin else []
        env = {**os.environ, "PYTHONPATH": str(tmp_path), **environ}
        command = [sys.executable, str(tmp_path / "program.py"), *words]
        return subprocess.run(command, input=said, env=env, capture_output=True, text=True, timeout=20)

    return run


def test_without_the_plugin_it_aborts(talk):
    """The test of the stub."""
    assert talk("你是谁?\nexit\n", plugin=False).returncode == -6


@pytest.mark.parametrize("end", ["exit\n", " QUIT \n", ""])
def test_the_end_is_the_end(talk, end):
    done = talk(f"你是谁?\n{end}")
    assert done.returncode == 0, done.stderr
    assert "answer to 你是谁?" in done.stdout and done.stdout.endswith("cleaned up\n")
    assert done.stderr == ""


def test_a_failure_behind_it_stays_one(talk):
    done = talk("exit\n", FAIL="1")
    assert done.returncode == 1
    assert "RuntimeError: after the conversation" in done.stderr
