"""entrypoint/read_ahead.py: what is read, in which order, and how much memory it may take."""

from __future__ import annotations

import ctypes
import mmap
import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "entrypoint" / "read_ahead.py"
MIB = 1 << 20


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The script's names, as the dictionary that its functions see."""
    return runpy.run_path(str(SCRIPT))["read"].__globals__


def test_the_list_stands_around_the_weights(module, tmp_path):
    listed = tmp_path / "read_ahead.txt"
    listed.write_text("0 5 /lib/one two.so\n8 4 /lib/b.so\n-\n0 9 /lib/late.so\n")
    module["LIST"] = listed
    model = tmp_path / "model"
    model.mkdir()
    for name in ("model-2.safetensors", "model-1.safetensors", "config.json"):
        (model / name).write_bytes(b"x" * 7)
    wanted = [(path.name, offset, length) for path, offset, length in module["wanted"]([str(model)])]
    assert wanted == [
        ("one two.so", 0, 5),
        ("b.so", 8, 4),
        ("model-1.safetensors", 0, 7),
        ("model-2.safetensors", 0, 7),
        ("late.so", 0, 9),
    ]


def test_pieces_end_where_the_budget_does(module):
    parts = [(Path("a"), 3, 20 * MIB), (Path("b"), 0, 20 * MIB)]
    pieces = list(module["pieces"](parts, 37 * MIB))
    assert pieces == [(Path("a"), 3, 16 * MIB), (Path("a"), 3 + 16 * MIB, 4 * MIB), (Path("b"), 0, 16 * MIB)]


@pytest.mark.parametrize(
    ("limit", "used", "cached", "expected"),
    [
        ("max", 1, 0, 95),  # the machine's own memory decides
        (24, 2, 1, 18),
        (8, 1, 0, 2),
        (8, 6, 0, 0),
        (4, 1, 0, 0),
    ],
)
def test_room_is_what_the_cgroup_leaves(module, tmp_path, monkeypatch, limit, used, cached, expected):
    """GiB of room, with 100 GiB available on the machine and 5 kept for the job."""
    gib = 1 << 30
    for name, value in {
        "max": limit if limit == "max" else limit * gib,
        "current": used * gib,
        "stat": f"anon 5\ninactive_file {cached * gib}\n",
        "meminfo": f"MemTotal: 1 kB\nMemAvailable: {100 << 20} kB\n",
    }.items():
        (tmp_path / name).write_text(f"{value}\n")
    module["CGROUPS"] = (tuple(str(tmp_path / name) for name in ("max", "current", "stat")),)
    module["MEMINFO"] = str(tmp_path / "meminfo")
    assert module["room"]() == expected * gib


def resident(path: Path) -> float:
    """Share of a file's pages that are in memory; the file must be one's own (mincore(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    with path.open("rb") as file:
        address = libc.mmap(
            None, ctypes.c_size_t(size), mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), ctypes.c_long(0)
        )
    found = (ctypes.c_ubyte * pages)()
    assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), found) == 0
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
    return sum(page & 1 for page in found) / pages


def test_files_are_read_into_memory():
    """On a disk (/tmp may be memory): nothing of the file is in memory before, all of it after."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        file = Path(folder, "model.safetensors")
        file.write_bytes(b"0123456789abcdef" * (40 * MIB // 16))
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert resident(file) < 0.1
        done = subprocess.run([sys.executable, "-I", "-S", str(SCRIPT), folder], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        deadline = time.monotonic() + 20  # the last pages may still be on their way
        while resident(file) < 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert resident(file) == 1


def test_what_is_not_there_is_passed_over(tmp_path):
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), str(tmp_path / "none"), str(tmp_path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_list_of_an_import_names_pages_of_libraries(tmp_path):
    """image/list_libraries.py on this Python: every line is a part of a file that is there."""
    root = SCRIPT.parents[1]
    out = tmp_path / "read_ahead.txt"
    code = (
        "import runpy, sys; sys.argv[0] = sys.argv[1]; sys.argv[1:] = sys.argv[2:]; sys.path.insert(0, sys.argv.pop());"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    line = [sys.executable, "-c", code, str(root / "image" / "list_libraries.py"), str(out), str(root)]
    done = subprocess.run(line, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    lines = out.read_text().splitlines()
    assert lines.count("-") == 1
    assert any("libtorch" in line for line in lines[: lines.index("-")])
    assert any("sacrebleu" in line for line in lines[lines.index("-") :])
    for line in lines:
        if line != "-":
            offset, length, path = line.split(maxsplit=2)
            assert 0 < int(length) <= Path(path).stat().st_size - int(offset), line
            assert int(offset) % mmap.PAGESIZE == 0
