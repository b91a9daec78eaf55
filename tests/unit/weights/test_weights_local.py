"""Local files, the check command, the sums file and the room plan: all without a network."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import pytest

from weights import fetch, room, sums

FILES = {"model-00001-of-00001.safetensors": b"w" * 5000, "config.json": b"{}", "LICENSE": b"free"}


class Disk(NamedTuple):
    total: int
    free: int


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    (folder / "README.md").write_text("not one of the files")
    return folder


@pytest.fixture
def sums_file(tmp_path: Path) -> Path:
    path = tmp_path / "SHA256SUMS"
    path.write_text("".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in FILES.items()))
    return path


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str]:
    """Exit code and the one error line, empty when there is none."""
    try:
        code = fetch.main([str(part) for part in argv])
    except SystemExit as end:
        assert isinstance(end.code, int)
        code = end.code
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("sha256: ")]
    assert len(errors) == (0 if code == 0 else 1), errors
    return code, errors[0] if errors else ""


def test_local_takes_exactly_the_listed_files(
    capsys: pytest.CaptureFixture[str], source: Path, sums_file: Path, tmp_path: Path
) -> None:
    to = tmp_path / "to"
    assert run(capsys, "local", "--from", source, "--to", to, "--sums", sums_file) == (0, "")
    assert {path.name: path.read_bytes() for path in to.iterdir() if path.name != "SHA256SUMS"} == FILES
    assert run(capsys, "check", "--dir", to) == (0, "")
    # A second run replaces what is there; the source is only read.
    assert run(capsys, "local", "--from", source, "--to", to, "--sums", sums_file)[0] == 0
    assert (source / "config.json").stat().st_mtime > 0


def test_local_names_a_bad_file(
    capsys: pytest.CaptureFixture[str], source: Path, sums_file: Path, tmp_path: Path
) -> None:
    (source / "config.json").write_bytes(b"[]")
    code, line = run(capsys, "local", "--from", source, "--to", tmp_path / "to", "--sums", sums_file)
    assert code == 1 and "config.json has sha256" in line and "LICENSE" not in line
    assert not (tmp_path / "to" / "config.json").exists()


def test_local_names_a_missing_file(
    capsys: pytest.CaptureFixture[str], source: Path, sums_file: Path, tmp_path: Path
) -> None:
    (source / "LICENSE").unlink()
    code, line = run(capsys, "local", "--from", source, "--to", tmp_path / "to", "--sums", sums_file)
    assert code == 1 and "LICENSE is missing" in line


def test_local_explains_a_hub_cache_of_links(
    capsys: pytest.CaptureFixture[str], source: Path, sums_file: Path, tmp_path: Path
) -> None:
    (source / "config.json").unlink()
    (source / "config.json").symlink_to("../../blobs/0123")
    code, line = run(capsys, "local", "--from", source, "--to", tmp_path / "to", "--sums", sums_file)
    assert code == 1 and "symbolic link to ../../blobs/0123" in line and "cp -rL" in line


def test_local_without_a_build_context(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    code, line = run(capsys, "local", "--from", empty, "--to", tmp_path / "to")
    assert code == 1 and "none of the model's 12 files" in line and "--build-context weights=DIR" in line


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["local", "--from", "/no/such/folder", "--to", "{tmp}/to"], "/no/such/folder is not a folder"),
        (["check", "--dir", "/no/such/folder"], "/no/such/folder is not a folder"),
        (["check"], "--dir"),
        (["ftp"], "invalid choice"),
        (["modelscope", "--to", "{tmp}/to", "--retries", "0"], "must be 1 or more"),
        (["huggingface", "--to", "{tmp}/to", "--sums", "/no/such/sums"], "cannot read /no/such/sums"),
    ],
)
def test_unusable_arguments_are_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, argv: list[str], says: str
) -> None:
    code, line = run(capsys, *(part.format(tmp=tmp_path) for part in argv))
    assert code == 2 and line.startswith("error: ") and says in line


def test_check_prefers_the_folders_own_sums(capsys: pytest.CaptureFixture[str], source: Path, sums_file: Path) -> None:
    (source / "SHA256SUMS").write_text(sums_file.read_text())
    assert run(capsys, "check", "--dir", source)[0] == 0
    assert run(capsys, "check", "--dir", source, "--sums", sums.OFFICIAL)[0] == 1
    (source / "SHA256SUMS").unlink()
    code, line = run(capsys, "check", "--dir", source)
    assert code == 1 and "vocab.json is missing" in line


def test_official_sums_are_the_twelve_files() -> None:
    official = sums.read(sums.OFFICIAL)
    assert len(official) == 12
    assert sorted(name for name in official if name.endswith(".safetensors")) == [
        f"model-0000{k}-of-00004.safetensors" for k in range(1, 5)
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "lists no file"),
        ("abc  config.json\n", "line 1 is not"),
        (f"{'a' * 64}  ../config.json\n", "names a path"),
        (f"{'a' * 64} config.json\n", "line 1 is not"),
    ],
)
def test_unusable_sums(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "SHA256SUMS"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        sums.read(path)


def test_sums_in_both_forms_of_sha256sum(tmp_path: Path) -> None:
    path = tmp_path / "SHA256SUMS"
    path.write_text(f"# made by hand\n{'A' * 64} *a.bin\n{'b' * 64}  b c.txt\n")
    assert sums.read(path) == {"a.bin": "a" * 64, "b c.txt": "b" * 64}


G = 10**9


@pytest.mark.parametrize(
    ("free", "linkable", "copies", "keeps"),
    [
        (45, False, 15, True),  # download, a copy for the stage, a copy for the layers
        (44, False, 15, False),  # the cache gives its files up
        (30, False, 15, False),
        (29, False, 15, None),
        (19, False, 0, False),  # the download and the one file that is in both places
        (18, False, 0, None),
        (15, True, 0, True),
        (14, True, 0, None),
    ],
)
def test_room_on_one_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, linkable: bool, copies: int, keeps: bool | None
) -> None:
    need = room.Need(15 * G, 15 * G, 4 * G, copies * G)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: Disk(100 * G, free * G))
    if keeps is None:
        with pytest.raises(room.NoRoomError, match=rf"GB needed .*{free}.0 GB free"):
            room.plan(tmp_path, tmp_path, need, linkable)
    else:
        assert room.plan(tmp_path, tmp_path, need, linkable) is keeps


def test_room_on_two_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need = room.Need(15 * G, 15 * G, 4 * G, 15 * G)
    cache, to = tmp_path / "cache", tmp_path / "to"

    def plan(cache_free: int, to_free: int) -> bool:
        disks = {cache: Disk(100 * G, cache_free * G), to: Disk(200 * G, to_free * G)}
        monkeypatch.setattr(room.shutil, "disk_usage", disks.__getitem__)
        return room.plan(cache, to, need, linkable=False)

    assert plan(15, 30)
    with pytest.raises(room.NoRoomError, match=r"15\.0 GB needed"):
        plan(14, 30)
    with pytest.raises(room.NoRoomError, match=r"30\.0 GB needed"):
        plan(15, 29)


def test_bytes_are_written_for_people() -> None:
    written = [room.bytes_text(count) for count in (0, 999, 1000, 123_456_789, 15_242_814_222)]
    assert written == ["0 bytes", "999 bytes", "1.0 kB", "123.5 MB", "15.2 GB"]
