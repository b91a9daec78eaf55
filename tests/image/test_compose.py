"""docker-compose.yml as a user without a GPU starts it: healthy with `up --wait`, and a job with `run`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.containers import IMAGE

pytestmark = pytest.mark.image
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def compose(image):
    """compose(*arguments) -- docker compose with the CPU override, in a project of its own that is taken down."""
    name, _, tag = IMAGE.partition(":")
    environment = os.environ | {"IMAGE": name, "TAG": tag or "latest"}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        files = ["-f", str(ROOT / "docker-compose.yml"), "-f", str(ROOT / "docker-compose.cpu.yml")]
        command = ["docker", "compose", "-p", "mirror-test", *files, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)

    yield call
    call("down", "--volumes", "--timeout", "1")


def test_up_waits_for_healthy(compose):
    done = compose("up", "--wait", "--wait-timeout", "120", "mirror")
    assert done.returncode == 0, done.stderr
    probed = compose("exec", "mirror", "healthcheck", "probe")
    assert probed.returncode == 0
    assert "ready" in probed.stdout


def test_a_service_runs_its_verb(compose):
    done = compose("run", "--rm", "-T", "verify")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "sft" in done.stderr  # there is no adapter yet; the line says what to run first


def test_every_verb_is_a_service(compose):
    services = compose("--profile", "*", "config", "--services").stdout.split()
    assert {"mirror", "shell", "infer", "finetune", "verify", "mixed", "tensorboard"} <= set(services)
