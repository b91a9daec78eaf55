"""Reading ahead in a real container: what it takes of a limited memory, and that the weights are in memory after it."""

from __future__ import annotations

import pytest

from tests.containers import container, image, run  # noqa: F401

ROOM = (
    "import runpy; module = runpy.run_path('/opt/mirror/entrypoint/read_ahead.py')['read'].__globals__;"
    "print(module['room']() / 2**30)"
)
CACHED = """
import os, pathlib, runpy
module = runpy.run_path('/opt/mirror/entrypoint/read_ahead.py')['read'].__globals__
parts = list(module['pieces'](module['wanted']([os.environ['MODEL_DIR']]), 1 << 40))
files = {path: os.open(path, os.O_RDONLY) for path, _, _ in parts}
print(all(module['is_cached'](files[path], offset, length) for path, offset, length in parts), len(parts))
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
    box.wait_until(lambda: box.exec("python", "-c", CACHED).stdout.startswith("True"), 60, "all of it cached")
    assert int(box.exec("python", "-c", CACHED).stdout.split()[1]) > 100
    assert "read_ahead" not in box.exec("ps", "ax").stdout
