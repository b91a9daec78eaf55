"""A stop signal at every phase of a run in the fast lane, and a second one; real processes on the tiny model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import state
from tests.unit.finetune import fast_home

# sft.sh in a process of its own that gets $SEND in the phase $PHASE, and where $HANG is set hangs there in one C call
# that no Python signal handler interrupts, as a hung CUDA call does.
PHASES = r"""
import ctypes, os, sys, threading, time
from finetune.engines.fast import train as fast, loaded_model as lane
from qwen2.training import loop as train
phase, number = os.environ["PHASE"], int(os.environ["SEND"])

def send():
    print("PHASE REACHED", file=sys.stderr, flush=True)
    os.kill(os.getpid(), number)
    if os.environ.get("HANG"):
        libc = ctypes.CDLL(None)
        blocked = ctypes.create_string_buffer(b"\xff" * 128)
        libc.pthread_sigmask(0, blocked, None)  # the signals go to other threads: this one sleeps on
        libc.sleep(60)
    time.sleep(0.05)

def at(when, function):
    def instead(*args, **more):
        if when(*args, **more):
            send()
        return function(*args, **more)
    return instead

if phase == "loading":
    lane.Lane.load = at(lambda *_: True, lane.Lane.load)
elif phase == "drawing":
    # STUB of a slow matplotlib: the process that draws sleeps first.
    real = fast.Drawing.__init__
    class Slow(fast.Drawing):
        def __init__(self, folder, tensorboard):
            super().__init__(folder, tensorboard)
            self.process.kill()
            self.process = fast.subprocess.Popen(["sh", "-c", "cat; exec sleep 60"], stdin=-1)
        def finish(self, stop):
            threading.Timer(0.3, send).start()
            super().finish(stop)
    fast.Drawing = Slow
else:
    step = {"first step": 0, "a step in the middle": 5, "last step": 11}[phase]
    train._Run._step = at(lambda self, index, _: index == step, train._Run._step)
from common.errors import run_main
from finetune.commands.sft import main
sys.exit(run_main(main))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, official_tokenizer_dir: Path) -> Path:
    return fast_home.make(tmp_path_factory.mktemp("home"), official_tokenizer_dir)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def start(home: Path, output: Path, phase: str, number: int = signal.SIGTERM, **env: str) -> subprocess.Popen[str]:
    env = fast_home.environ(home, output, PHASE=phase, SEND=str(int(number)), ENGINE="fast", **env)
    return subprocess.Popen(
        [sys.executable, "-c", PHASES, *fast_home.words(home)],
        cwd=home,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, []) and None,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, error = process.communicate(timeout=200)
    assert "Traceback" not in error and "PHASE REACHED" in error, error
    return process.returncode, out, error


@pytest.mark.parametrize(
    ("phase", "code", "status", "adapter"),
    [
        ("loading", 143, "stopped", None),
        ("first step", 143, "stopped", "checkpoint-1"),
        ("a step in the middle", 143, "stopped", "checkpoint-6"),
        ("last step", 0, "done", "checkpoint-12"),
        ("drawing", 0, "done", "checkpoint-12"),
    ],
)
def test_a_stop_signal_at_every_phase(
    home: Path, output: Path, phase: str, code: int, status: str, adapter: str | None
) -> None:
    begin = time.monotonic()
    found, out, error = ended(start(home, output, phase))
    assert found == code, error
    assert time.monotonic() - begin < 50, "the 60 s of the stub were waited for"
    folder = fast_home.the_run(output)
    record = fast_home.record(folder)
    assert (record["status"], record["exit_code"], record.get("adapter")) == (status, code, adapter)
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    if code:
        (line,) = lines
        assert ("nothing is lost" if adapter is None else f"{folder}/{adapter}, --resume continues") in line
    else:
        assert not lines and out.startswith("sft: 12 steps") and out.endswith("/checkpoint-12\n")
    assert not (output.parent / "run" / state.JOB_FILE).exists()  # the probe is not told of a killed job


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_hung_step_at_once(home: Path, output: Path, number: signal.Signals) -> None:
    process = start(home, output, "a step in the middle", number, HANG="1")
    assert process.stderr is not None
    lines = []
    while not any("a second one ends at once" in line for line in lines):
        lines.append(process.stderr.readline())
        assert lines[-1], "".join(lines)
    time.sleep(0.8)
    assert process.poll() is None  # it hangs
    begin = time.monotonic()
    process.send_signal(number)
    _, rest = process.communicate(timeout=20)
    assert time.monotonic() - begin < 5
    assert process.returncode == 128 + number
    (line,) = [line for line in rest.splitlines() if line.startswith("error:")]
    folder = fast_home.the_run(output)
    assert f"ended at once by a second {number.name}" in line
    assert f"the newest checkpoint is {folder}/checkpoint-4, --resume continues" in line
    record = fast_home.record(folder)
    assert (record["status"], record["adapter"]) == ("stopped", "checkpoint-4")
    assert not (output.parent / "run" / state.JOB_FILE).exists()
    done = fast_home.command(home, output, "--resume")
    assert done.returncode == 0, done.stderr
    assert "from checkpoint-4" in done.stderr and fast_home.record(folder)["status"] == "done"


def test_a_run_killed_after_its_last_step_is_done(home: Path, output: Path) -> None:
    """SIGKILL between the last checkpoint and run.json: the next start writes down what is the case."""
    done = fast_home.signalled(home, output, 12, signal.SIGKILL)
    assert done.returncode == -signal.SIGKILL
    folder = fast_home.the_run(output)
    assert fast_home.record(folder)["status"] == "running"
    done = fast_home.command(home, output, "--resume")
    assert done.returncode == 2 and "is finished (checkpoint-12)" in done.stderr and "was killed" not in done.stderr
    assert fast_home.record(folder)["status"] == "done"


def test_resume_says_the_runs_own_reason(home: Path, output: Path) -> None:
    assert fast_home.signalled(home, output, 3, signal.SIGTERM, engine="auto").returncode == 143
    done = fast_home.command(home, output, "--resume")
    assert done.returncode == 0, done.stderr
    assert "engine: the fast lane, because it honours every option given\n" in done.stderr
    assert fast_home.record(fast_home.the_run(output))["engine_why"] == "because it honours every option given"


def test_files_of_a_checkpoint_follow_the_umask(home: Path, output: Path) -> None:
    for umask, mode in ((0o022, 0o644), (0o077, 0o600)):
        place = output / f"{umask:o}" / "output"
        before = os.umask(umask)
        try:
            done = fast_home.command(home, place, "--max_steps", "2", ENGINE="fast")
        finally:
            os.umask(before)
        assert done.returncode == 0, done.stderr
        folder = fast_home.the_run(place)
        files = [folder / "run.json", *(folder / "checkpoint-2").iterdir()]
        assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {
            path.name: oct(mode) for path in files
        }
