"""A process that `docker exec --user N` starts: HOME=/, and no name in /etc/passwd."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from pathlib import Path

import pytest

from common import exec_home


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, empty; HOME is Docker's for an unknown user."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", "/")
    for name in ("USER", "LOGNAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_root_of_all_is_no_home(temporary: Path) -> None:
    exec_home.ensure()
    chosen = Path(os.environ["HOME"])
    assert chosen == temporary / f"home-{os.getuid()}"
    assert stat.S_IMODE(chosen.stat().st_mode) == 0o700


def test_the_second_process_finds_the_first_ones_home(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exec_home.ensure()
    first = os.environ["HOME"]
    monkeypatch.setenv("HOME", "/")
    exec_home.ensure()
    assert os.environ["HOME"] == first


def test_a_missing_home_and_one_that_cannot_be_written(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "/proc/none"):
        monkeypatch.setenv("HOME", value)
        exec_home.ensure()
        assert os.environ["HOME"].startswith(str(temporary))


def test_a_good_home_stays(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(temporary))
    exec_home.ensure()
    assert os.environ["HOME"] == str(temporary)
    assert not list(temporary.iterdir())


def test_a_folder_of_somebody_else_is_not_taken(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the caller were another user than the one who owns home-N."""
    other = os.getuid() + 1
    theirs = temporary / f"home-{other}"
    theirs.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: other)
    exec_home.ensure()
    assert os.environ["HOME"].startswith(f"{theirs}-")


def test_no_folder_can_be_made(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    exec_home.ensure()
    assert os.environ["HOME"] == "/"


def test_there_is_no_folder_for_temporary_files(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    exec_home.ensure()
    assert os.environ["HOME"] == "/"


def test_a_user_without_a_name_gets_one(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_number: int) -> pwd.struct_passwd:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    exec_home.ensure()
    assert os.environ["USER"] == os.environ["LOGNAME"] == "mirror"
