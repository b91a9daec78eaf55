"""docker-compose.yml as a user without a GPU starts it: healthy with `up --wait`, and a job with `run`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.containers import IMAGE

pytestmark = pytest.mark.image
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def compose(image, tmp_path):
    """compose(*arguments) -- docker compose with the CPU override, in a project of its own that is taken down."""
    name, _, tag = IMAGE.partition(":")
    output = tmp_path / "output"
    environment = os.environ | {"IMAGE": name, "TAG": tag or "latest", "OUTPUT": str(output), "DATA": str(tmp_path)}

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
    # there is no adapter yet; the line says what to run first, in compose's words
    assert "docker compose run --rm finetune" in done.stderr


def test_words_behind_a_service_are_its_own(compose, tmp_path):
    (tmp_path / "my.json").write_text('[{"instruction": "q", "output": ""}]')
    done = compose("run", "--rm", "-T", "check-data", "/data/my.json")
    assert done.returncode == 2 and "/data/my.json" in done.stderr, done.stdout + done.stderr


def test_an_image_that_is_not_there_is_asked_of_no_registry(compose):
    services = yaml.safe_load(compose("--profile", "*", "config").stdout)["services"]
    assert {service["pull_policy"] for service in services.values()} == {"never"}
    assert "build" in services["mirror"]
    sources = {mount["target"]: mount["source"] for mount in services["finetune"]["volumes"]}
    assert sources["/root/output"].endswith("/output")


def test_every_verb_is_a_service(compose):
    services = compose("--profile", "*", "config", "--services").stdout.split()
    jobs = {"check-data", "plan", "finetune", "infer", "runs", "verify", "merge", "export", "mixed", "serve"}
    assert jobs | {"mirror", "shell", "tensorboard"} <= set(services)
