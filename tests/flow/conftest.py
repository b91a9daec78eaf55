"""Whole runs share one fine-tuned output folder and the container fixtures."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.containers import RESTRICTED, container, docker, image, run  # noqa: F401


@dataclass(frozen=True)
class Finetuned:
    """The result of one `finetune` in a container: the host folder and what the command printed."""

    folder: Path
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def finetuned(image: str, tmp_path_factory: pytest.TempPathFactory) -> Finetuned:  # noqa: F811
    """`docker run IMAGE finetune` as an ordinary user with no rights and without a network, on the stand-in."""
    folder = tmp_path_factory.mktemp("output")
    folder.chmod(0o777)
    done = docker(
        *(
            "run",
            "--rm",
            "-e",
            "MIRROR_DEVICE=cpu",
            "-e",
            "HEALTH_VERBOSE=1",
            "--shm-size",
            "2g",
            "--network",
            "none",
            "--user",
            "1234:1234",
        ),
        *(*RESTRICTED, "-v", f"{folder}:/root/output", image, "finetune"),
        timeout=900,
    )
    return Finetuned(folder, done)
