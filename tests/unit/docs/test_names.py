"""No name of a class stands for two things."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PRODUCT = ("bench", "common", "entrypoint", "finetune", "healthchecks", "host", "image", "qwen2", "standin", "weights")


def classes(root: Path) -> dict[str, list[str]]:
    """Name of a class -> the places that define it."""
    found = defaultdict(list)
    for path in sorted(path for package in PRODUCT for path in (root / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(f"{path.relative_to(root)}:{node.lineno}")
    return found


def test_no_class_is_called_as_another_is():
    found = classes(ROOT)
    assert len(found) > 100
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_a_name_used_twice_is_found(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "qwen2" / name).mkdir(parents=True)
        (tmp_path / "qwen2" / name / "x.py").write_text("class Job:\n    pass\n")
    assert classes(tmp_path) == {"Job": ["qwen2/a/x.py:1", "qwen2/b/x.py:1"]}
