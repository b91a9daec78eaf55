"""`make uninstall`: it lists, asks, and never touches the output folder."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
STUB = """#!/bin/sh
case "$1 $2" in
  "image ls")
    case "$*" in
      *Size*) echo 7.8GB ;;
      *) printf '%s\\n' mirror:standin 'mirror:<none>' mirror:smollm2 ;;
    esac ;;
  "image rm") shift 2; echo "$@" >>"$REMOVED" ;;
esac
"""


@pytest.fixture
def house(tmp_path) -> Path:
    """A checkout with host/, caches and an output folder, and a stub for docker."""
    (tmp_path / "repo").mkdir()
    for folder in ("host", "entrypoint"):
        shutil.copytree(ROOT / folder, tmp_path / "repo" / folder)
    for folder in (".cache/wheels", ".venv", "output/run-1"):
        (tmp_path / "repo" / folder).mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(STUB)
    (tmp_path / "bin" / "docker").chmod(0o755)
    (tmp_path / "engine" / "data").mkdir(parents=True)
    return tmp_path


def uninstall(house: Path, *words: str, answer: str | None = None, output: str = "output") -> tuple[int, str]:
    """(exit code, what was said); `answer` is typed at a terminal, None is a pipe."""
    environment = os.environ | {
        "PATH": f"{house}/bin:{os.environ['PATH']}",
        "REMOVED": str(house / "removed"),
        "MIRROR_ENGINE_HOME": str(house / "engine"),
    }
    command = [str(house / "repo/host/uninstall.sh"), "mirror", str(house / "repo" / output), *words]
    ours, theirs = pty.openpty()
    if answer is not None:
        os.write(ours, f"{answer}\n".encode())
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL if answer is None else theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        timeout=60,
    )
    os.close(ours)
    os.close(theirs)
    return done.returncode, done.stdout


def is_whole(house: Path) -> bool:
    kept = (house / "repo/.cache", house / "repo/.venv", house / "engine")
    return all(path.exists() for path in kept) and not (house / "removed").exists()


def test_it_lists_and_removes_after_a_yes(house):
    code, said = uninstall(house, answer="y")
    assert code == 0, said
    assert "mirror:standin  7.8GB" in said and f"{house}/repo/.cache" in said and f"{house}/engine" in said
    assert (house / "removed").read_text() == "mirror:standin mirror:smollm2\n"
    assert not any((house / name).exists() for name in ("repo/.cache", "repo/.venv", "engine"))
    assert (house / "repo/output/run-1").is_dir() and f"{house}/repo/output" in said


@pytest.mark.parametrize("answer", ["n", "", "yesterday"])
def test_anything_but_yes_removes_nothing(house, answer):
    code, said = uninstall(house, answer=answer)
    assert code == 0 and "nothing was removed" in said and is_whole(house)


def test_without_a_terminal_nobody_is_asked_and_nothing_removed(house):
    code, said = uninstall(house)
    assert code == 2 and "YES=1" in said and is_whole(house)
    code, _ = uninstall(house, "--yes")
    assert code == 0 and not is_whole(house)


def test_an_output_inside_a_cache_is_kept(house):
    (house / "repo/build/out/run-1").mkdir(parents=True)
    code, said = uninstall(house, "--yes", output="build/out")
    assert code == 0 and (house / "repo/build/out/run-1").is_dir(), said


def test_an_output_that_a_link_leads_to_is_kept(house):
    (house / "repo/build/out/run-1").mkdir(parents=True)
    (house / "repo/runs").symlink_to(house / "repo/build/out")
    code, said = uninstall(house, "--yes", output="runs")
    assert code == 0 and (house / "repo/build/out/run-1").is_dir(), said


def test_an_output_in_the_engines_folder_stops_it(house):
    (house / "engine/out/run-1").mkdir(parents=True)
    code, said = uninstall(house, "--yes", output="../engine/out")
    assert code == 2 and "move your runs first" in said and is_whole(house)


def test_nothing_there_is_said(house):
    uninstall(house, "--yes")
    (house / "bin" / "docker").write_text("#!/bin/sh\n")
    code, said = uninstall(house, "--yes")
    assert code == 0 and said.startswith("nothing to remove")
