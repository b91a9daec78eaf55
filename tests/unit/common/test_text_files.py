"""Files that people write are read up to a size, whatever the path is."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from common import text_files
from common.errors import UserError
from finetune.engines.swift import config_file
from finetune.verify import yamlmarks


def test_line_ends_are_one_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("\ufeffa: 1\r\nb: 2\rc: 你好\n".encode())
    assert text_files.read(path, "utf-8-sig") == "a: 1\nb: 2\nc: 你好\n"


def test_a_file_of_the_largest_size_is_read_and_one_byte_more_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "LARGEST", 2**20)
    path = tmp_path / "a"
    path.write_bytes(b"x" * 2**20)
    assert len(text_files.read(path)) == 2**20
    path.write_bytes(b"x" * (2**20 + 1))
    with pytest.raises(OSError, match="more than 1 MiB"):
        text_files.read(path)


def test_a_device_without_an_end_is_one_line() -> None:
    with pytest.raises(UserError, match=r"cannot be read .*more than 16 MiB"):
        config_file.load("/dev/zero")
    with pytest.raises(UserError, match="/dev/zero: cannot read the questions: it has more than 16 MiB"):
        yamlmarks.load(Path("/dev/zero"), "questions")


def test_a_pipe_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("a: 1\n",))
    writer.start()
    assert config_file.load(pipe) == {"a": 1}
    writer.join()
