"""Two containers on one Docker network train the stand-in together (gloo, DDP): the same losses as one, and a death."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.containers import docker

pytestmark = pytest.mark.flow
NETWORK = f"mirror-two-nodes-{os.getpid()}"
COMMON = ("--shm-size", "1g", "--user", "1234:1234", "-e", "MIRROR_DEVICE=cpu", "-e", "HEALTH_LEVEL=off")
# 50 rows in batches of 16: 4 steps an epoch, the same on one worker and on two.
OPTIONS = ("--num_train_epochs", "3", "--gradient_accumulation_steps", "1", "--logging_steps", "1", "--save_steps", "4")
STEPS = 12


class Nodes:
    """Two containers, each a node of one torchrun; names are host names on the network."""

    def __init__(self, image: str) -> None:
        self.image, self.started = image, ["", ""]

    def start(self, folders: list[Path], *words: str, engine: str = "swift") -> None:
        """`sft WORDS` on both, with torchrun's variables."""
        for node, folder in enumerate(folders):
            name = f"{NETWORK}-{node}"
            docker("rm", "-f", "-v", name)
            variables = {"NNODES": 2, "NODE_RANK": node, "NPROC_PER_NODE": 1}
            variables |= {"MASTER_ADDR": f"{NETWORK}-0", "MASTER_PORT": 29500, "OMP_NUM_THREADS": 1}
            variables |= {"ENGINE": engine}
            flags = [word for key, value in variables.items() for word in ("-e", f"{key}={value}")]
            done = docker(
                *("run", "-d", "--name", name, "--network", NETWORK, *COMMON, *flags),
                *("-v", f"{folder}:/root/output", self.image, "sft", *words),
            )
            assert done.returncode == 0, done.stderr
            self.started[node] = name

    def logs(self, node: int) -> str:
        done = docker("logs", self.started[node])
        return done.stdout + done.stderr

    def wait(self, node: int, seconds: float) -> int:
        """Exit code; fails the test when it does not end in time."""
        try:
            return int(docker("wait", self.started[node], timeout=seconds).stdout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"node {node} did not end within {seconds} s:\n{self.logs(node)[-3000:]}")

    def kill(self, node: int) -> None:
        docker("kill", self.started[node])


@pytest.fixture(scope="module")
def nodes(image: str) -> Iterator[Nodes]:
    """A network and two nodes on it, removed at the end."""
    assert docker("network", "create", NETWORK).returncode == 0
    made = Nodes(image)
    yield made
    for name in filter(None, made.started):
        docker("rm", "-f", "-v", name)
    docker("network", "rm", NETWORK)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    """folder(name): an output folder that the container's user may write to."""

    def make(name: str) -> Path:
        path = tmp_path / name
        path.mkdir()
        path.chmod(0o777)
        return path

    return make


def losses(output: Path) -> dict[int, float]:
    """{step: loss} of the run below an output folder."""
    (log,) = output.glob("*/logging.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return {int(row["global_step/max_steps"].split("/")[0]): row["loss"] for row in rows if "loss" in row}


def assert_same_losses(together: dict[int, float], alone: dict[int, float], within: float) -> None:
    """Every step of the run, each with nearly the loss that one process had."""
    assert sorted(together) == sorted(alone) == list(range(1, STEPS + 1))
    assert max(abs(together[step] - alone[step]) for step in alone) < within


def losses_alone(image: str, output: Path, engine: str) -> dict[int, float]:
    """The losses of one worker with the whole batch of 16."""
    output.chmod(0o777)
    done = docker(
        *("run", "--rm", "--network", "none", *COMMON, "-e", f"ENGINE={engine}", "-e", "OMP_NUM_THREADS=1"),
        *("-v", f"{output}:/root/output", image, "sft", "--per_device_train_batch_size", "16", *OPTIONS),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return losses(output)


@pytest.fixture(scope="module")
def alone(image: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    return losses_alone(image, tmp_path_factory.mktemp("alone"), "swift")


@pytest.fixture(scope="module")
def fast_alone(image: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    return losses_alone(image, tmp_path_factory.mktemp("fast_alone"), "fast")


def test_the_fast_lane_on_two_nodes_a_death_and_the_run_resumed(nodes, folder, fast_alone):
    """The rows of a step are the options' product, on however many; dropout is on, and the same."""
    batch = ("--per_device_train_batch_size", "16", *OPTIONS)
    first, second = folder("first"), folder("second")
    nodes.start([first, second], *batch, engine="fast")
    assert nodes.wait(0, 300) == 0, nodes.logs(0)[-3000:]
    assert nodes.wait(1, 60) == 0, nodes.logs(1)[-3000:]
    assert "node 1 ended with exit code 0; node 0 writes" in nodes.logs(1)
    assert_same_losses(losses(first), fast_alone, 0.002)
    assert not list(second.iterdir())
    nodes.start([first, second], "--run", "job", *batch, engine="fast")
    deadline = time.monotonic() + 200
    while not list(first.glob("job/checkpoint-4/trainer_state.json")):
        assert time.monotonic() < deadline, nodes.logs(0)[-3000:]
        time.sleep(0.1)
    nodes.kill(1)
    begun = time.monotonic()
    assert nodes.wait(0, 60) == 1
    assert time.monotonic() - begun < 60
    (error,) = [line for line in nodes.logs(0).splitlines() if line.startswith("error:")]
    assert "node 1 (" in error and "no sign of life" in error and "--resume continues" in error
    nodes.start([first, first], "--resume", "/root/output/job", engine="fast")
    assert nodes.wait(0, 300) == 0, nodes.logs(0)[-3000:]
    assert nodes.wait(1, 60) == 0, nodes.logs(1)[-3000:]
    log = json.loads((first / "job/run.json").read_text())
    assert log["status"] == "done" and log["steps"] == STEPS
    assert abs(log["final_loss"] - fast_alone[STEPS]) < 0.002


def test_two_nodes_have_the_losses_of_one_worker(nodes, folder, alone):
    first, second = folder("first"), folder("second")
    nodes.start([first, second], "--per_device_train_batch_size", "8", *OPTIONS)
    assert nodes.wait(0, 300) == 0, nodes.logs(0)[-3000:]
    nodes.wait(1, 60)
    assert "End time of running main" in nodes.logs(1)  # the checkpoint is node 0's alone
    assert_same_losses(losses(first), alone, 0.02)


def test_one_is_killed_the_other_ends_with_a_cause_and_the_run_resumes(nodes, folder, alone):
    first, second = folder("first"), folder("second")
    nodes.start([first, second], "--run", "job", "--per_device_train_batch_size", "8", *OPTIONS)
    deadline = time.monotonic() + 200
    while not list(first.glob("job/checkpoint-4/trainer_state.json")) or max(losses(first), default=0) < 5:
        assert time.monotonic() < deadline, nodes.logs(0)[-3000:]
        time.sleep(0.3)
    nodes.kill(1)
    begun = time.monotonic()
    assert nodes.wait(0, 60) == 1
    assert time.monotonic() - begun < 60
    said = nodes.logs(0)
    assert "Connection closed by peer" in said or "Connection reset by peer" in said
    (error,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert "--resume continues" in error and "checkpoint-" in error
    # Shared storage, from here on: both see the run and its checkpoint.
    nodes.start([first, first], "--resume", "/root/output/job")
    assert nodes.wait(0, 300) == 0, nodes.logs(0)[-3000:]
    assert nodes.wait(1, 60) == 0, nodes.logs(1)[-3000:]
    resumed = losses(first)
    assert abs(resumed[STEPS] - alone[STEPS]) < 0.02
