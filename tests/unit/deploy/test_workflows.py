"""The workflows are valid, pin every action by its commit, and may do no more than they need."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[3] / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in load(path)["jobs"].values() for step in job["steps"]]


def test_both_are_there():
    assert {"ci.yml", "gpu-health.yml"} <= {path.name for path in FILES}


def test_valid_against_the_schema_of_github():
    """check-jsonschema carries that schema, so this needs no network."""
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*command, *map(str, FILES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_with_the_version_beside_it(path):
    uses = re.findall(r"uses: *(\S+)(.*)", path.read_text(encoding="utf-8"))
    assert uses
    for action, comment in uses:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), comment


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_rights_but_reading(path):
    workflow = load(path)
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"] in ({}, {"contents": "read"})
        assert job["timeout-minutes"] <= 60


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_expression_inside_a_script(path):
    """What someone types into a form must not become shell: expressions go through env."""
    for step in steps(path):
        assert "${{" not in step.get("run", "")


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed (requirements/test.in)")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_scripts_are_clean_for_shellcheck(path):
    for step in steps(path):
        if "run" in step:
            command = [SHELLCHECK, "-s", "bash", "-f", "json", "-"]
            done = subprocess.run(command, input=step["run"], capture_output=True, text=True)
            assert json.loads(done.stdout) == []
