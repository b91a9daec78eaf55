"""`make build MODEL=…` as a user types it, against the local hub of the weights tests: list, download, image."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.shapes import config_json
from tests.containers import docker
from tests.unit.weights.conftest import Hub, serving

ROOT = Path(__file__).resolve().parents[2]
MODEL = "Qwen2.5-1.5B-Instruct"
IMAGE = "qwen2.5-1.5b-mirror"
TAG = "test-other-size"


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Both hubs on 127.0.0.1, with one model of one shard (random bytes, a real config.json)."""
    server = Hub()
    server.repo = f"Qwen/{MODEL}"
    for name in [name for name in server.files if "-of-" in name or name.endswith(".index.json")]:
        del server.files[name]
    server.files["model.safetensors"] = os.urandom(1 << 20)
    server.files["config.json"] = json.dumps(config_json("1.5B")).encode()
    yield from serving(server)


@pytest.fixture
def make(tmp_path: Path, hub: Hub) -> Iterator[Callable[[str], subprocess.CompletedProcess[str]]]:
    """make(NAME) -- `make build MODEL=NAME` in a copy of this tree, with both hubs' addresses at the local one."""
    tree = tmp_path / "tree"
    left = shutil.ignore_patterns(".git", ".venv", "output", "build", "__pycache__", "*.sums", ".*_cache")
    shutil.copytree(ROOT, tree, ignore=left, symlinks=True)

    def call(name: str) -> subprocess.CompletedProcess[str]:
        words = [f"MODEL={name}", "MODEL_SOURCE=huggingface", f"TAG={TAG}", "GPUS=none", "BUILD_FLAGS=--network host"]
        words += [f"HF_ENDPOINT={hub.url}", f"MODELSCOPE_DOMAIN={hub.url}"]
        env = os.environ | {"no_proxy": "*"}
        return subprocess.run(
            ["make", "--no-print-directory", "build", *words],
            cwd=tree,
            env=env,
            capture_output=True,
            text=True,
            timeout=900,
        )

    yield call
    docker("rmi", "-f", f"{IMAGE}:{TAG}")


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Our own error lines; BuildKit repeats what a stage printed behind a number and a time."""
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def test_another_size_is_built_by_its_name(make, hub: Hub) -> None:
    done = make(MODEL)
    assert done.returncode == 0, done.stderr[-3000:]
    labels = json.loads(docker("inspect", "-f", "{{json .Config.Labels}}", f"{IMAGE}:{TAG}").stdout)
    assert labels["mirror.model.name"] == MODEL and labels["mirror.model.source"] == "huggingface"
    assert labels["mirror.model.revision"] == "a09a35458c702b33eeacc393d103063234e8bc28"
    assert labels["org.opencontainers.image.title"] == IMAGE
    check = 'cd "$MODEL_DIR" && pwd && sha256sum -c --quiet SHA256SUMS && ls | wc -l'
    ran = docker("run", "--rm", "-e", "HEALTH_LEVEL=off", f"{IMAGE}:{TAG}", "bash", "-c", check)
    assert ran.stdout.split() == [f"/root/{MODEL}", str(len(hub.files) + 1)], ran.stderr


def test_a_wrong_byte_an_unknown_name_and_a_hub_that_disagrees_are_a_line_each(make, hub: Hub) -> None:
    done = make("Qwen2.5-1.6B-Instruct")
    assert done.returncode and len(errors(done)) == 1 and "is the name right" in errors(done)[0], done.stderr
    hub.flips["tokenizer.json"] = 5  # listed as one file, sent as another
    done = make(MODEL)
    assert done.returncode and len(errors(done)) == 1 and "than it lists" in errors(done)[0], done.stderr
    del hub.flips["tokenizer.json"]
    hub.flips["model.safetensors"] = 5
    done = make(MODEL)
    assert done.returncode and "model.safetensors has sha256" in done.stderr, done.stderr[-3000:]
