"""The fast lane in several processes (gloo, the tiny model): one process's losses, resumes, kills, a missing node."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune.runs.run_folder import load
from tests.unit.finetune import fast_home

EPOCHS = ("--num_train_epochs", "10")  # 40 steps


@pytest.fixture(scope="module")
def alone(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    return fast_home.finished(home, tmp_path_factory, *EPOCHS, NPROC_PER_NODE="1")[0]


@pytest.fixture(scope="module")
def together(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run of two, and what it said."""
    return fast_home.finished(home, tmp_path_factory, *EPOCHS, NPROC_PER_NODE="2")


def losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "logging.jsonl").read_text().splitlines()]
    return {int(line["global_step/max_steps"].split("/")[0]): line["loss"] for line in lines if "loss" in line}


def adapter(folder: Path) -> torch.Tensor:
    tensors = load_file(str(folder / "checkpoint-40/adapter_model.safetensors"))
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def same(folder: Path, alone: Path) -> None:
    """40 losses within 0.002, and the adapter of one process but for rounding."""
    ours, wanted = losses(folder), losses(alone)
    assert sorted(ours) == sorted(wanted) == list(range(1, 41))
    assert max(abs(ours[step] - wanted[step]) for step in wanted) < 0.002
    assert float((adapter(folder) - adapter(alone)).norm() / adapter(alone).norm()) < 0.01


def test_two_processes_have_the_losses_of_one_with_dropout_on(together: Any, alone: Path) -> None:
    folder, said = together
    same(folder, alone)
    assert "40 steps, up to 4 rows a step on 2 processes" in said and "Traceback" not in said
    record = load(folder)
    assert record["status"] == "done" and record["engine"] == "fast"
    assert record["figures"]["tokens"] == load(alone)["figures"]["tokens"]
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in alone.iterdir()}  # one process writes


@pytest.mark.parametrize(("before", "after"), [("2", "1"), ("1", "2")])
def test_a_stopped_run_goes_on_with_another_number(
    home: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    output = tmp_path / "output"
    monkeypatch.setenv("NPROC_PER_NODE", before)
    done = fast_home.signalled(home, output, 5, signal.SIGTERM, *EPOCHS, "--run", "job")
    assert done.returncode == 143, done.stderr
    assert load(output / "job")["status"] == "stopped"
    # Several agree with the gradients of the step after.
    assert (output / f"job/checkpoint-{5 if before == '1' else 6}").is_dir()
    resumed = fast_home.command(home, output, "--resume", str(output / "job"), NPROC_PER_NODE=after)
    assert resumed.returncode == 0, resumed.stderr
    same(output / "job", alone)


def start(home: Path, output: Path, *more: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "finetune.commands.sft", *fast_home.words(home, *more)],
        cwd=home,
        env=fast_home.environ(home, output, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 100
    while not path.exists():
        assert process.poll() is None and time.monotonic() < until, process.communicate()[1]
        time.sleep(0.05)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The further processes, which imports of the first are not."""
    found = []
    for pid in fast_home.descendants(process.pid):
        if b"engines.fast.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
            found.append(pid)
    return found


def runs(pid: int) -> bool:
    """Whether the process runs; an ended one that its parent has not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_or_hung_process_ends_the_others_with_the_cause(home: Path, tmp_path: Path, number: int) -> None:
    output = tmp_path / "output"
    with start(home, output, "--num_train_epochs", "500", "--run", "job", NPROC_PER_NODE="2") as process:
        wait_for(output / "job/checkpoint-2/trainer_state.json", process)
        (worker,) = workers_of(process)
        os.kill(worker, number)
        begun = time.monotonic()
        said = fast_home.said(process)
    assert process.returncode == 1 and time.monotonic() - begun < 60
    (error,) = [line for line in said.splitlines() if line.startswith("error:")]
    cause = "was killed by SIGKILL" if number == signal.SIGKILL else "has given no sign of life for 20 s"
    assert f"process 1 of 2 {cause}" in error and "--resume continues" in error and "Traceback" not in said
    assert load(output / "job")["status"] == "failed"
    assert not runs(worker)


def test_a_process_that_dies_before_the_first_step_leaves_no_run(home: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with start(home, output, "--run", "job", NPROC_PER_NODE="2") as process:
        until = time.monotonic() + 60
        while not (found := workers_of(process)):
            assert time.monotonic() < until
            time.sleep(0.01)
        os.kill(found[0], signal.SIGKILL)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and not (output / "job").exists()
    (error,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert "the training was not begun: process 1 of 2 was killed by SIGKILL" in error


def test_the_others_end_when_the_first_is_killed(home: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with start(home, output, "--num_train_epochs", "500", "--run", "job", NPROC_PER_NODE="2") as process:
        wait_for(output / "job/checkpoint-2/trainer_state.json", process)
        (worker,) = workers_of(process)
        process.kill()
        until = time.monotonic() + 30
        while runs(worker) and time.monotonic() < until:
            time.sleep(0.05)
    assert not runs(worker)


def two_nodes(**more: str) -> dict[str, str]:
    """The environment of two nodes that meet at a port that was free a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **more}


def test_a_node_that_does_not_answer_is_named_within_a_minute(home: Path, tmp_path: Path) -> None:
    more = two_nodes(MIRROR_MEET_S="6")
    begun = time.monotonic()
    first = fast_home.command(home, tmp_path / "first", "--run", "job", **more, NODE_RANK="0")
    assert first.returncode == 1 and time.monotonic() - begun < 50
    assert "process 1 of 2 did not connect within 6 s (NNODES=2)" in first.stderr
    assert not (tmp_path / "first/job").exists()
    second = fast_home.command(home, tmp_path / "second", "--run", "job", **more, NODE_RANK="1")
    assert second.returncode == 1
    assert f"node 0 (127.0.0.1:{more['MASTER_PORT']}) did not answer within 6 s" in second.stderr
    assert "Traceback" not in first.stderr + second.stderr


@pytest.mark.parametrize("node", ["0", "1"])
def test_a_node_that_waits_for_the_others_ends_at_once_when_it_is_stopped(
    home: Path, tmp_path: Path, node: str
) -> None:
    with start(home, tmp_path / "output", "--run", "job", **two_nodes(MIRROR_MEET_S="200", NODE_RANK=node)) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("loading" if node == "0" else "engine:"):
                break
        time.sleep(6)  # it waits for the other node by now
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        said = fast_home.said(process)
    assert process.returncode == 143 and time.monotonic() - begun < 10
    assert "sft: stopped before the first step, so nothing is lost" in said and "Traceback" not in said
    if node == "0":  # which writes
        assert load(tmp_path / "output/job")["status"] == "stopped"
