"""No product file has over 400 lines and no function over 60, but for those that docs/architecture.md names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FILE_LINES, FUNCTION_LINES, MOST_EXCEPTIONS = 400, 60, 10
FOLDERS = ("bench", "common", "entrypoint", "finetune", "healthchecks", "host", "image", "qwen2", "standin", "weights")
ROW = re.compile(r"^\| `(?P<file>[\w/]+\.py)` `(?P<function>\w+)` \| (?P<why>.+) \|$", re.MULTILINE)


def product(root: Path) -> Iterator[Path]:
    """The Python and shell files of the product."""
    for folder in (*FOLDERS, "workspace", "deploy"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".sh") and path.is_file():
                yield path


def long_files(root: Path) -> list[str]:
    """Files over the bar, as paths below `root`."""
    paths = product(root)
    return [str(p.relative_to(root)) for p in paths if len(p.read_text(encoding="utf-8").splitlines()) > FILE_LINES]


def long_functions(root: Path) -> set[tuple[str, str]]:
    """(file, function) of the functions over the bar, from `def` to their last line."""
    found = set()
    for path in product(root):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path.suffix == ".py" else ():
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno is not None
                if node.end_lineno - node.lineno + 1 > FUNCTION_LINES:
                    found.add((str(path.relative_to(root)), node.name))
    return found


def named() -> dict[tuple[str, str], str]:
    """The exceptions in docs/architecture.md: (file, function) -> why."""
    section = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").split("## Long functions", 1)[1]
    return {(row["file"], row["function"]): row["why"] for row in ROW.finditer(section.split("\n## ", 1)[0])}


def test_no_file_is_over_the_bar() -> None:
    assert list(product(ROOT))
    assert long_files(ROOT) == []


def test_the_long_functions_are_those_that_have_a_reason() -> None:
    assert long_functions(ROOT) == set(named())
    assert len(named()) <= MOST_EXCEPTIONS


@pytest.mark.parametrize(("lines", "found"), [(FUNCTION_LINES, False), (FUNCTION_LINES + 1, True)])
def test_a_function_counts_from_def_to_its_last_line(tmp_path: Path, lines: int, found: bool) -> None:
    (tmp_path / "qwen2").mkdir()
    (tmp_path / "qwen2/one.py").write_text("async def f():\n" + "    1\n" * (lines - 1))
    assert (("qwen2/one.py", "f") in long_functions(tmp_path)) is found


@pytest.mark.parametrize("name", ["host/one.sh", "qwen2/one.py"])
def test_a_line_too_many_is_found(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("#\n" * FILE_LINES)
    assert long_files(tmp_path) == []
    (tmp_path / name).write_text("#\n" * (FILE_LINES + 1))
    assert long_files(tmp_path) == [name]
