"""Reading ahead in a real container: what it takes of a limited memory, and that the weights are in memory after it."""

from __future__ import annotations

import pytest

from tests.containers import container, image, run  # noqa: F401

ROOM = (
    "import runpy; module = runpy.run_path('/opt/mirror/entrypoint/read_ahead.py')['read'].__globals__;"
    "print(module['room']() / 2**30)"
)
CACHED = """
import ctypes, mmap, os, runpy
module = runpy.run_path('/opt/mirror/entrypoint/read_ahead.py')['read'].__globals__
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
pages = missing = 0
for path, offset, length in module['wanted']([os.environ['MODEL_DIR']]):
    if not path.is_file():
        continue
    first = offset // mmap.PAGESIZE * mmap.PAGESIZE
    size = offset + length - first
    file = os.open(path, os.O_RDONLY)
    at = libc.mmap(None, ctypes.c_size_t(size), mmap.PROT_READ, mmap.MAP_SHARED, file, ctypes.c_long(first))
    found = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    assert libc.mincore(ctypes.c_void_p(at), ctypes.c_size_t(size), found) == 0
    libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(size))
    os.close(file)
    pages += len(found)
    missing += sum(1 for page in found if not page & 1)
print(missing, pages)
"""


@pytest.mark.parametrize("gib", [8, 24])
def test_a_memory_limit_is_respected(run, gib):  # noqa: F811
    done = run(
        "python", "-c", ROOM, flags=["--memory", f"{gib}g", "-e", "HEALTH_LEVEL=off", "-e", "MIRROR_READ_AHEAD=0"]
    )
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) <= gib - 5


def test_a_small_container_is_not_killed(run):  # noqa: F811
    done = run("sleep", "3", flags=["--memory", "256m", "-e", "HEALTH_LEVEL=off"])
    assert done.returncode == 0, done.stderr


def test_weights_and_libraries_are_in_memory_after_the_start(container):  # noqa: F811
    box = container("sleep", "infinity", flags=["-e", "HEALTH_LEVEL=off"])
    box.wait_until(lambda: box.exec("python", "-c", CACHED).stdout.startswith("0 "), 60, "all of it in memory")
    assert int(box.exec("python", "-c", CACHED).stdout.split()[1]) > 10_000
    box.wait_until(lambda: "read_ahead" not in box.exec("ps", "ax").stdout, 20, "the end of reading ahead")
