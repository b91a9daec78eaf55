"""Public functions of qwen2/ with several parameters say in Args what each of them is: shapes, units, defaults."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PARAMETERS = 3
# How many still have none; it may only fall.
WITHOUT = 37


def undocumented(source: str) -> Iterator[str]:
    """Names of public functions and methods that have PARAMETERS and more, and no section Args."""
    holders: list[ast.Module | ast.ClassDef] = [ast.parse(source)]
    while holders:
        for node in holders.pop().body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                holders.append(node)
            elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                names = [each.arg for each in given if each.arg not in ("self", "cls")]
                if len(names) >= PARAMETERS and "Args:" not in (ast.get_docstring(node) or ""):
                    yield node.name


def test_parameters_of_public_functions_are_documented():
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / "qwen2").rglob("*.py"))
        for name in undocumented(path.read_text(encoding="utf-8"))
    ]
    assert len(found) <= WITHOUT, "document a function's parameters under Args:\n" + "\n".join(found)


def test_a_planted_function_is_found():
    planted = (
        "def three(a, b, c):\n    'Adds.'\n"
        "def two(a, b):\n    'Adds.'\n"
        "def told(a, b, c):\n    '''Adds.\n\n    Args:\n        a: One.\n    '''\n"
        "class Public:\n    def method(self, a, b, c): ...\n    def _own(self, a, b, c): ...\n"
    )
    assert sorted(undocumented(planted)) == ["method", "three"]
