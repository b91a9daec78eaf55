"""docker-compose.yml gives its containers the settings that `make` gives its own."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]


def test_every_setting_that_make_passes_on_is_passed_on_by_compose() -> None:
    flags = re.search(r"^RUN_FLAGS = (?:.*\\\n)*.*$", (ROOT / "Makefile").read_text(), re.M)
    assert flags
    passed = set(re.findall(r"-e ([A-Z_]+)(?=\s|$)", flags[0])) - {"NO_COLOR"}  # of a terminal that make runs in
    assert "NPROC_PER_NODE" in passed
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name in ("finetune", "verify", "mirror"):
        given = services[name]["environment"]
        assert passed <= set(given), name
        assert all(given[each].startswith(f"${{{each}:-") for each in passed)
