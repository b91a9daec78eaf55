"""A home on the tiny model for the tests of the fast lane, and `sft.sh` in this process or in one of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from common.errors import run_main
from finetune.commands import sft as train
from finetune.sft import start
from tests.unit.finetune.real_swift import ROOT, make_home

CONFIG = """model: Qwen2.5-7B-Instruct
tuner_type: lora
dataset: [self_cognition.json]
system: You are a helpful assistant.
torch_dtype: bfloat16
max_length: 512
learning_rate: 3e-3
lora_rank: 4
lora_alpha: 8
lora_dropout: 0.05
num_train_epochs: 3
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
warmup_ratio: 0.05
save_steps: 2
logging_steps: 1
output_dir: output
add_version: false
check_model: false
dataloader_num_workers: 0
"""


def make(folder: Path, tokenizer: Path) -> Path:
    """Model, dataset of 16 rows and configs/sft.yaml: 12 steps of 4 rows."""
    folder.mkdir(parents=True, exist_ok=True)
    make_home(folder, tokenizer, rows=16)
    (folder / "configs").mkdir()
    (folder / "configs/sft.yaml").write_text(CONFIG)
    return folder


def words(home: Path, *more: str) -> list[str]:
    return ["sft", "--config", str(home / "configs/sft.yaml"), *more]


def sft(home: Path, *more: str) -> int:
    """sft.sh in this process, its errors turned into a line and a code as the command does it."""
    return run_main(lambda: train.main(words(home, *more)))


def environ(home: Path, output: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MODEL_DIR": str(home / "Qwen2.5-7B-Instruct"),
        "MIRROR_DEVICE": "cpu",
        "OUTPUT_DIR": str(output),
        "MIRROR_RUN_DIR": str(output.parent / "run"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "0",
        **more,
    }


def enter(monkeypatch: pytest.MonkeyPatch, home: Path, folder: Path) -> Path:
    """Go to the home with this test's own output and run folders, and nothing of the caller's environment."""
    for name in ("NPROC_PER_NODE", "NNODES", "VRAM_CEILING_GIB", "MIRROR_WAIT", "MIRROR_JOB", "HEALTH_LEVEL", "ENGINE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ(home, folder / "output").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("common.state.FALLBACK_RUN_DIR", str(folder / "no-fallback"))
    monkeypatch.chdir(home)
    return home


# The command in a process of its own that sends itself a signal once a step is logged (and saved).
SIGNALLED = """
import os, sys
from qwen2.training import loop as train
real = train.train
def signalled(*args, on_step=None, **more):
    def told(step, total, log):
        on_step(step, total, log)
        if step == int(os.environ["AT_STEP"]):
            os.kill(os.getpid(), int(os.environ["SEND"]))
    return real(*args, on_step=told, **more)
train.train = signalled
from common.errors import run_main
from finetune.commands.sft import main
sys.exit(run_main(main))
"""


def signalled(
    home: Path, output: Path, at: int, number: int, *more: str, engine: str = "fast"
) -> subprocess.CompletedProcess[str]:
    """sft.sh in a process of its own that gets the signal right after step `at`."""
    env = environ(home, output, AT_STEP=str(at), SEND=str(int(number)), ENGINE=engine)
    return subprocess.run(
        [sys.executable, "-c", SIGNALLED, *words(home, *more)],
        cwd=home,
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, []) and None,
    )


def command(home: Path, output: Path, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
    """sft.sh in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "finetune.commands.sft", *words(home, *more)],
        cwd=home,
        env=environ(home, output, **env),
        capture_output=True,
        text=True,
        timeout=300,
    )


def kill_at(home: Path, output: Path, step: int, *more: str, **env: str) -> int:
    """sft.sh, SIGKILLed with all its processes once checkpoint-`step` is whole; the exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "finetune.commands.sft", *words(home, *more)],
        cwd=home,
        env=environ(home, output, **env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + 200
    while time.monotonic() < until and process.poll() is None:
        if any(output.glob(f"*/checkpoint-{step}/trainer_state.json")):
            break
        time.sleep(0.02)
    for pid in descendants(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return process.wait()


def descendants(pid: int) -> list[int]:
    """A process and all below it: jobs have process groups of their own."""
    found = [pid]
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found += descendants(int(child))
    return found


def the_run(output: Path) -> Path:
    """The only run's folder."""
    (folder,) = (path for path in output.iterdir() if path.is_dir() and not path.name.startswith("."))
    return folder


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def losses(folder: Path) -> list[float]:
    """The loss of every logged step."""
    rows = [json.loads(line) for line in (folder / "logging.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def done(home: Path, output: Path, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own, which must end well."""
    ended = command(home, output, *more, **env)
    assert ended.returncode == 0, ended.stderr
    return ended


def finished(home: Path, folders: pytest.TempPathFactory, *more: str, **env: str) -> tuple[Path, str]:
    """The folder of a run that ended well, in an output folder of its own, and what it said."""
    output = folders.mktemp("finished") / "output"
    ended = done(home, output, *more, "--run", "job", **env)
    return output / "job", ended.stderr


def said(process: subprocess.Popen[str]) -> str:
    """What a process prints on stderr until it ends; it is killed after a minute."""
    try:
        return process.communicate(timeout=60)[1]
    finally:
        process.kill()


def count_trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each training in this process is given; filled while they run."""
    trained: list[int] = []
    real = start.encode

    def counted(*args: Any, **more: Any) -> Any:
        rows = real(*args, **more)
        trained.append(len(rows.rows))
        return rows

    monkeypatch.setattr(start, "encode", counted)
    return trained
