"""docs/health.md and the Dockerfile say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from healthchecks import probe

ROOT = Path(__file__).resolve().parents[3]
DOCS = (ROOT / "docs" / "health.md").read_text(encoding="utf-8")


def test_every_code_of_a_failure_is_documented_beside_its_check():
    for path in (ROOT / "healthchecks" / "checks").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        name = re.search(r'^NAME = "(.+)"$', source, re.MULTILINE)
        if name is None:
            continue
        codes = set(re.findall(r'Failure\(\s*"([a-z0-9-]+)"', source))
        codes |= {
            code
            for line in re.findall(r"Failure\(\s*\"[^\n]+ else [^\n]+", source)
            for code in re.findall(r'"([a-z-]+)"', line)
        }
        codes |= set(re.findall(r'_json\(folder, [^,]+, "([a-z-]+)"\)', source))
        assert codes, path
        (row,) = re.findall(rf"^\| `{name.group(1)}` .*$", DOCS, re.MULTILINE)
        assert codes <= set(re.findall(r"`([a-z0-9-]+)`", row)), codes - set(re.findall(r"`([a-z0-9-]+)`", row))


def test_the_dockerfile_has_the_documented_lines():
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    block = DOCS.split("```Dockerfile\n")[1].split("```")[0]
    for line in block.splitlines():
        assert line in dockerfile


def test_dockers_timeout_is_above_the_probes_own():
    timeout = re.search(r"--timeout=(\d+)s", DOCS)
    assert timeout and int(timeout.group(1)) > probe.LIMIT_S
