"""`export` in a container of the stand-in image: no network, a read-only root, a user without rights, a full disk."""

from __future__ import annotations

import subprocess

import pytest

from tests.containers import RESTRICTED, docker

pytestmark = pytest.mark.flow
CLOSED = (
    "--network",
    "none",
    "--read-only",
    "--tmpfs",
    "/tmp",
    "--tmpfs",
    "/run/mirror:mode=1777",
    "--user",
    "1000:1000",
)
NAME = "Qwen2.5-7B-Instruct-finetuned-Q4_K_M.gguf"


def run(image: str, *words: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    common = ("-e", "MIRROR_DEVICE=cpu", "-e", "HEALTH_LEVEL=off", "--shm-size", "1g", *RESTRICTED)
    return docker("run", "--rm", *common, *CLOSED, *flags, image, *words, timeout=900)


@pytest.fixture(scope="module")
def exported(image, finetuned, tmp_path_factory):
    """The fine-tuned stand-in as Q4_K_M: the folder, and what the command printed."""
    folder = tmp_path_factory.mktemp("export")
    folder.chmod(0o777)
    flags = ("-v", f"{finetuned.folder}:/root/output:ro", "-v", f"{folder}:/out")
    return folder / "faq", run(image, "export", "--output", "/out/faq", flags=flags)


def test_the_file_is_written_and_proved_without_a_network_or_rights(exported) -> None:
    folder, done = exported
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "verdict: pass" in done.stdout
    names = {path.name for path in folder.iterdir()}
    assert names == {NAME, "Modelfile", "README.md", "LICENSE", "SHA256SUMS"}


def test_infer_asks_the_file(image, exported) -> None:
    folder, _ = exported
    done = run(image, "infer", "--gguf", f"/out/faq/{NAME}", "你是谁?", flags=("-v", f"{folder.parent}:/out:ro"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "迪菲赫尔曼" in done.stdout


def test_a_disk_that_is_full_leaves_nothing(image, finetuned) -> None:
    """A real file system of 4 MiB: the stand-in's file does not fit."""
    flags = ("-v", f"{finetuned.folder}:/root/output:ro", "--tmpfs", "/small:size=4m,mode=1777")
    script = "export.sh --no-check --output /small/faq; code=$?; ls -A /small; exit $code"
    done = run(image, "bash", "-c", script, flags=flags)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no room: a Q4_K_M of this model needs" in done.stderr.splitlines()[-1]
    assert done.stdout.strip() == ""
