"""Every command of the READMEs above the fold and on own data: git clone, and make's verbs with a stub for Docker.

What the verbs then do is run by tests/flow (finetune, infer, chat, merge, export, serve).
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.image.test_make_verbs import ROOT, Make, make  # noqa: F401 - a fixture
from tests.unit.docs.markdown import Document, uncommented

LINES = [
    line.strip()
    for kind, block in Document(ROOT / "README.md").fences()
    if kind == "sh"
    for line in uncommented(block).splitlines()
    if line.strip()
]
VERBS = [line for line in LINES if line.startswith("make ")]


def test_there_is_nothing_but_clone_and_make():
    assert [line for line in LINES if line not in VERBS] == ['git clone "$URL" mirror && cd mirror']


def test_the_clone_has_what_make_needs(tmp_path: Path):
    clone = next(line for line in LINES if line.startswith("git clone"))
    script = f"{clone} && make -s help"
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "finetune" in done.stdout


def _environment() -> dict[str, str]:
    safe = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    return {**os.environ, "URL": str(ROOT), **safe}


@pytest.mark.parametrize("line", VERBS)
def test_a_verb_starts_what_it_names(line: str, make: Make, tmp_path: Path):  # noqa: F811
    _make, verb, *words = shlex.split(line)
    settings = dict(word.split("=", 1) for word in words)
    if "DATASET" in settings:
        settings["DATASET"] = str(tmp_path / "my.json")
        Path(settings["DATASET"]).write_text('[{"instruction": "a", "input": "", "output": "b"}]')
    (tmp_path / "out").mkdir()
    done = make(verb, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = (tmp_path / "ran").read_text().splitlines()
    script = {"chat": "serve"}.get(verb, verb)
    assert script in ran, ran
    for word in shlex.split(settings.get("ARGS", "")):
        assert word in ran
