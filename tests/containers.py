"""Real containers for the tests in image/ and flow/: a factory that starts them and always removes them."""

from __future__ import annotations

import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import testinfra
from testinfra.host import Host

# As little as a container can be given (docs/security.md); whole runs and the tests of security use it.
RESTRICTED = ("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only", "--tmpfs", "/tmp")
IMAGE = os.environ.get("MIRROR_IMAGE", "qwen2.5-7b-mirror:standin")


def docker(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run one docker command and return it with its output; the caller looks at the return code."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout)


@dataclass
class Container:
    """A running container: its id, its testinfra host, and the few docker verbs that tests use."""

    id: str
    host: Host = field(init=False)

    def __post_init__(self) -> None:
        self.host = testinfra.get_host(f"docker://{self.id}")

    def inspect(self, template: str) -> str:
        return docker("inspect", "-f", template, self.id).stdout.strip()

    def logs(self) -> str:
        done = docker("logs", self.id)
        return done.stdout + done.stderr

    def exec(self, *command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return docker("exec", self.id, *command, timeout=timeout)

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Poll until the condition holds; fail with what was waited for and the container's log."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return
            time.sleep(0.1)
        pytest.fail(f"waited {seconds} s for {what}; the container's log:\n{self.logs()[-4000:]}")


@pytest.fixture(scope="session")
def image() -> str:
    """The image under test; it must have been built (`make build MODEL_SOURCE=standin`)."""
    found = docker("image", "inspect", IMAGE)
    if found.returncode:
        pytest.fail(f"{IMAGE} is not there: run `make build MODEL_SOURCE=standin`, or set MIRROR_IMAGE")
    return IMAGE


@pytest.fixture(scope="session")
def archive(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The whole image as a file, `docker save`."""
    file = tmp_path_factory.mktemp("layers") / "image.tar"
    assert docker("save", "-o", str(file), image).returncode == 0
    yield file
    file.unlink()


def entries(archive: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Every entry of every layer, also of those that a later layer hides."""
    with tarfile.open(archive) as outer:
        for member in outer:
            file = outer.extractfile(member) if member.size >= 1024 else None
            if file is None:
                continue
            try:
                with tarfile.open(fileobj=file) as layer:
                    for entry in layer:
                        yield layer, entry
            except tarfile.ReadError:
                continue  # the image's settings, JSON


@pytest.fixture
def run(image: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """run(*command, flags=[...]) -- a container that runs one command to its end, on the CPU."""

    def run_once(*command: str, flags: tuple[str, ...] | list[str] = (), timeout: float = 300):
        return docker(
            "run", "--rm", "-e", "MIRROR_DEVICE=cpu", "--shm-size", "2g", *flags, image, *command, timeout=timeout
        )

    return run_once


@pytest.fixture
def container(image: str) -> Iterator[Callable[..., Container]]:
    """container(*command, flags=[...]) -- a container in the background (sleep by default), removed after the test."""
    started: list[str] = []

    def start(*command: str, flags: tuple[str, ...] | list[str] = ()) -> Container:
        done = docker(
            "run",
            "-d",
            "-e",
            "MIRROR_DEVICE=cpu",
            "--shm-size",
            "2g",
            *flags,
            image,
            *(command or ("sleep", "infinity")),
        )
        assert done.returncode == 0, done.stderr
        started.append(done.stdout.strip())
        return Container(started[-1])

    yield start
    for identifier in started:
        docker("rm", "-f", "-v", identifier)
