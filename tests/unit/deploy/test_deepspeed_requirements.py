"""requirements/deepspeed.lock goes beside the image's packages: it must not bring other versions of any of them."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def pins(name: str) -> dict[str, str]:
    """{package: the lines of its pin} of a lock file."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    return {re.split(r"[=\[]", block)[0]: block for block in re.split(r"\n(?=[a-z0-9])", text) if "==" in block}


def test_it_names_nothing_that_the_image_has():
    assert not set(pins("deepspeed.lock")) & set(pins("image.lock"))


def test_everything_has_hashes():
    found = pins("deepspeed.lock")
    assert "deepspeed" in found
    assert all("--hash=sha256:" in block for block in found.values())


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3)])
def test_ms_swift_brings_the_configurations_that_the_document_names(name, stage):
    spec = find_spec("swift")
    assert spec and spec.submodule_search_locations
    path = Path(next(iter(spec.submodule_search_locations))) / f"config/{name}.json"
    assert json.loads(path.read_text())["zero_optimization"]["stage"] == stage
