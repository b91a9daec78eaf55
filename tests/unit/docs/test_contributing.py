"""The issue forms, the pre-commit hooks and CONTRIBUTING.md: valid, and about things that are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from healthchecks.cli import parser

ROOT = Path(__file__).resolve().parents[3]
FORMS = ROOT / ".github" / "ISSUE_TEMPLATE"
LANGUAGES = [FORMS / "bug.yml", FORMS / "bug.zh-CN.yml"]
LINT = (ROOT / "host" / "lint.sh").read_text(encoding="utf-8")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("schema", "files"),
    [("github-issue-forms", LANGUAGES), ("github-issue-config", [FORMS / "config.yml"])],
)
def test_valid_against_the_schema_of_github(schema, files):
    """check-jsonschema carries these schemas, so this needs no network."""
    pytest.importorskip("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_languages_ask_the_same():
    english, chinese = (
        [
            (field["type"], field.get("id"), field.get("validations"), field["attributes"].get("render"))
            for field in body
        ]
        for body in (load(path)["body"] for path in LANGUAGES)
    )
    assert english == chinese
    commands = [re.findall(r"`([^`]+)`", path.read_text(encoding="utf-8")) for path in LANGUAGES]
    assert commands[0] == commands[1]


def test_the_forms_ask_for_what_the_image_can_say():
    text = LANGUAGES[0].read_text(encoding="utf-8")
    asked = re.findall(r"healthcheck (\w+) (--\w+)", text)
    assert asked
    for verb, option in asked:
        assert getattr(parser().parse_args([verb, option]), option.removeprefix("--")) is True
    assert "run.json" in text


def test_the_hooks_are_the_linters_of_make_lint():
    """Local, so that versions are those of requirements/test.lock; each linter of host/lint.sh once."""
    (repository,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    asked = []
    for hook in repository["hooks"]:
        assert {"id", "name", "entry", "language", "args"} <= set(hook)
        assert (hook["entry"], hook["language"], hook["pass_filenames"]) == ("host/lint.sh", "system", False)
        assert hook["name"] == ", ".join(hook["args"])
        asked += hook["args"]
    known = re.findall(r"^\s*lint (?:'([^']+)'|([\w-]+)) ", LINT, re.MULTILINE)
    assert sorted(asked) == sorted(quoted or plain for quoted, plain in known)


def test_lint_runs_what_it_is_asked_for(tmp_path):
    """With a ruff and a yamllint that only say their name."""
    folder = tmp_path / "host"
    folder.mkdir()
    (folder / "lint.sh").write_text(LINT)
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name, code in {"ruff": 0, "yamllint": 1, "mypy": 1, "git": 0}.items():
        (tools / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tools / name).chmod(0o755)

    def lint(*names: str) -> tuple[int, str]:
        done = subprocess.run(["bash", str(folder / "lint.sh"), *names], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    assert lint("ruff check", "ruff format") == (0, "ruff check: ok\nruff format: ok\n")
    assert lint("ruff check", "yamllint") == (1, "ruff check: ok\nyamllint: FAILED\n")
    assert lint("mypy") == (1, "mypy: FAILED\n")
    assert lint("no such linter")[0] == 2
