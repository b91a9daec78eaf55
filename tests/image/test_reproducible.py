"""docs/security.md, "The same image from the same commit": what would make two builds differ must not come back.

Two builds without a cache are compared by hand (the document has the commands); here the image is looked through for
their causes.
"""

from __future__ import annotations

import re
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from tests.containers import docker, entries

pytestmark = pytest.mark.image
ROOT = Path(__file__).resolve().parents[2]
OFF = ("-e", "HEALTH_LEVEL=off")
DATE = int(re.search(r"^date=@(\d+)", (ROOT / "image/normalize-layer.sh").read_text(), re.M).group(1))
OURS = re.compile(r"opt/(venv|mirror|bitsandbytes)(/|$)|root/[^.]|run/mirror")
BY_CHANCE = re.compile(r"^tmp/.|/uv_cache\.json$|^var/(log|cache/ldconfig)/.")


def test_no_file_has_the_time_of_the_build(archive):
    """The base and apt's packages bring older files; what a build makes has the date in normalize-layer.sh."""
    seen, faults = 0, []
    for _, entry in entries(archive):
        seen += 1
        if entry.mtime > DATE or (OURS.match(entry.name) and entry.mtime < DATE):
            faults.append(f"{entry.name}: {datetime.fromtimestamp(entry.mtime)}")
        if BY_CHANCE.search(entry.name) and entry.size and entry.mtime >= DATE:
            faults.append(f"{entry.name}: {entry.size} bytes that a second build does not repeat")
    assert seen > 20_000
    assert faults == []


STALE = """
import importlib.util, os, pathlib, sys
seen, stale = 0, []
for top in ("/opt/venv", "/opt/mirror", "/opt/bitsandbytes", "/usr/lib/python3"):
    for file in pathlib.Path(top).rglob("*.pyc"):
        source = importlib.util.source_from_cache(str(file))
        header = file.open("rb").read(16)
        seen += 1
        if os.path.exists(source) and header[4:8] == bytes(4) and (
            int.from_bytes(header[8:12], "little") != int(os.stat(source).st_mtime)
        ):
            stale.append(str(file))
print(seen, stale)
"""


def test_no_bytecode_is_older_than_its_source(run):
    """One that is would be compiled anew at every start, and a read-only container could not keep it."""
    done = run("python", "-c", STALE, flags=OFF)
    seen, stale = done.stdout.split(maxsplit=1)
    assert int(seen) > 10_000
    assert stale.strip() == "[]"


def test_a_file_mounted_over_a_compiled_one_is_used(run, tmp_path):
    """Although all files have one date: a .pyc holds its source's, and its size."""
    (mounted := tmp_path / "mounted.py").write_text("raise SystemExit('mounted')\n")
    find = "import common.errors as ours, addict as theirs; print(ours.__file__, theirs.__file__)"
    files = run("python", "-c", find, flags=OFF).stdout.split()
    assert len(files) == 2
    for file, module in zip(files, ("common.errors", "addict"), strict=True):
        done = run("python", "-c", f"import {module}", flags=[*OFF, "-v", f"{mounted}:{file}:ro"])
        assert done.stderr.splitlines()[-1] == "mounted"


def test_the_image_has_the_date_of_its_commit(image):
    revision = docker(
        "inspect", "-f", '{{index .Config.Labels "org.opencontainers.image.revision"}}', image
    ).stdout.strip()
    command = ["git", "-C", str(ROOT), "show", "-s", "--format=%ct", revision]
    commit = subprocess.run(command, capture_output=True, text=True)
    if commit.returncode:
        pytest.skip(f"{revision} is no commit of this checkout: the image was built elsewhere")
    created = docker("inspect", "-f", "{{.Created}}", image).stdout.strip()
    assert datetime.fromisoformat(created.replace("Z", "+00:00")).timestamp() == int(commit.stdout)
