"""docs/architecture.md is true: every module has a row there, and imports go along its arrows and no others."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = ("bench", "common", "finetune", "healthchecks", "image", "qwen2", "standin", "weights")
DESCRIBED = ("common", "finetune", "healthchecks", "qwen2")  # each has a section "Modules of …"
IMPORT_SWIFT = ("finetune/engines/swift/plugins", "finetune/serve/plugin.py", "finetune/verify/alpaca.py")
STANDARD_LIBRARY = "the standard library alone"
# Imports that break the table today: (file, imported file) -> why. A row no longer needed fails.
EXCEPTIONS = {
    ("finetune/data/check.py", "finetune/verify/config.py"): "finds the held-out questions itself",
    ("finetune/data/check.py", "finetune/verify/questions.py"): "reads the held-out questions itself",
    ("finetune/data/content.py", "finetune/verify/scoring.py"): "asks verify which texts claim an identity",
}


def sources(root: Path, *packages: str) -> list[str]:
    """The Python files of the packages, as paths below `root`."""
    return sorted(str(path.relative_to(root)) for package in packages for path in (root / package).rglob("*.py"))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(root: Path, file: str, late: bool = True) -> Iterator[str]:
    """What a file imports, as dotted names: `from a import b` is a.b. `late`: those inside functions, too."""
    tree = parsed(root / file)
    for node in ast.walk(tree) if late else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import; write the whole name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_of(root: Path, name: str) -> str | None:
    """The file of this repository that a dotted name lies in; None for other people's packages."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return None
    for count in range(len(parts), 0, -1):
        stem = "/".join(parts[:count])
        for file in (f"{stem}.py", f"{stem}/__init__.py"):
            if (root / file).is_file():
                return file
    return parts[0]  # a folder without __init__.py


def rooms(root: Path) -> list[str]:
    """The packages and the rooms in them: folders of finetune and of its engines, and qwen2/training."""
    inner = [
        f"{folder}/{path.name}"
        for folder in ("finetune", "finetune/engines", "qwen2")
        for path in (root / folder).glob("*")
        if any(path.glob("*.py")) and path.name != "plugins"
    ]
    return [*PACKAGES, *inner]


def edges(root: Path, packages: tuple[str, ...] = PACKAGES) -> set[tuple[str, str]]:
    """(file, imported file) wherever one room imports from another."""
    places = rooms(root)

    def room(file: str) -> str:
        return max((place for place in places if within(file, place)), key=len)

    found = set()
    for file in sources(root, *packages):
        for name in imports(root, file):
            target = file_of(root, name)
            if target and room(target) != room(file):
                found.add((file, target))
    return found


def table(heading: str, columns: str) -> list[list[str]]:
    """The rows of the table below a heading whose header line begins with `columns`."""
    section = DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = section.split(columns)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def within(file: str, place: str) -> bool:
    """Whether a file is this place (a file) or lies below it (a folder)."""
    return file == place or file.startswith(f"{place.rstrip('/')}/")


ARROWS = [
    (source, target)
    for row in table("Arrows", "| from | to |")
    for source in quoted(row[0])
    for target in quoted(row[1])
]


def forbidden(found: set[tuple[str, str]], arrows: list[tuple[str, str]]) -> list[str]:
    """The imports that no arrow allows, as text."""
    return sorted(
        f"{file} imports {target}"
        for file, target in found
        if not any(within(file, source) and within(target, to) for source, to in arrows)
    )


def test_imports_go_along_the_arrows():
    assert forbidden(edges(ROOT) - set(EXCEPTIONS), ARROWS) == []


def test_every_exception_is_still_needed():
    found = edges(ROOT)
    assert set(EXCEPTIONS) <= found
    assert len(forbidden(set(EXCEPTIONS), ARROWS)) == len(EXCEPTIONS)


def test_no_command_imports_another_but_finetune():
    folder = "finetune/commands"
    for file in sources(ROOT, folder):
        own = {file, f"{folder}/__init__.py", *([] if file != f"{folder}/finetune.py" else sources(ROOT, folder))}
        found = {target for name in imports(ROOT, file) if (target := file_of(ROOT, name)) and within(target, folder)}
        assert found <= own, f"{file} imports {sorted(found - own)}"


def test_nothing_lies_loose_in_finetune():
    assert [path.name for path in (ROOT / "finetune").iterdir() if path.is_file()] == ["__init__.py"]


def test_every_arrow_is_used():
    found = edges(ROOT)
    for source, to in ARROWS:
        assert any(within(file, source) and within(target, to) for file, target in found), f"{source} -> {to}"


@pytest.mark.parametrize(
    "statement",
    [
        "import finetune.commands.sft",
        "from finetune.commands import sft",
        "from finetune.commands.sft import Plan",
        "def late():\n    from finetune.commands.sft import Plan",
    ],
)
def test_a_forbidden_import_is_found(tmp_path, statement):
    """The test of the test: qwen2 must not import finetune, however it is written."""
    for package in ("qwen2", "finetune/commands"):
        (tmp_path / package).mkdir(parents=True)
    (tmp_path / "finetune/commands/sft.py").write_text("Plan = 1\n")
    (tmp_path / "qwen2" / "model.py").write_text(f"{statement}\n")
    assert forbidden(edges(tmp_path, ("qwen2", "finetune")), ARROWS) == [
        "qwen2/model.py imports finetune/commands/sft.py"
    ]


@pytest.mark.parametrize(
    "statement", ["import finetune.verify.rules", "def late():\n    from finetune.verify import rules"]
)
def test_a_forbidden_import_between_rooms_is_found(tmp_path, statement):
    for room in ("data", "verify"):
        (tmp_path / "finetune" / room).mkdir(parents=True)
    (tmp_path / "finetune/verify/rules.py").touch()
    (tmp_path / "finetune/data/rows.py").write_text(f"{statement}\n")
    assert forbidden(edges(tmp_path, ("finetune",)), ARROWS) == [
        "finetune/data/rows.py imports finetune/verify/rules.py"
    ]


def test_packages_that_are_to_stand_alone_do():
    for row in table("Arrows", "| module | imports"):
        allowed = set() if STANDARD_LIBRARY in row[1] else set(quoted(row[1]))
        assert allowed or STANDARD_LIBRARY in row[1], row
        for place in quoted(row[0]):
            files = [place] if place.endswith(".py") else sources(ROOT, place)
            assert files
            for file in files:
                own = place.split("/")[0]
                outside = {name.split(".")[0] for name in imports(ROOT, file)} - {own, *sys.stdlib_module_names}
                assert outside <= allowed, f"{file} imports {sorted(outside - allowed)}"


def test_the_probe_and_what_it_imports_need_the_standard_library_alone():
    (own,) = {name for name in imports(ROOT, "healthchecks/probe.py") if name.startswith(PACKAGES)}
    assert own == "common.state"
    assert not [name for name in imports(ROOT, "common/state.py") if name.startswith(PACKAGES)]


def test_ms_swift_is_imported_in_its_own_processes_only():
    for file in sources(ROOT, *PACKAGES):
        if any(name.split(".")[0] == "swift" for name in imports(ROOT, file)):
            assert file.startswith("bench/") or any(within(file, place) for place in IMPORT_SWIFT), file
    assert all(f"`{place}`" in DOCUMENT for place in IMPORT_SWIFT)


def test_plan_knows_neither_train_nor_torch():
    for file in sources(ROOT, "finetune/plan"):
        for name in imports(ROOT, file):
            assert not name.startswith(("finetune.commands.sft", "finetune.sft")), file
            assert name.split(".")[0] != "torch" or file == "finetune/plan/fast.py", file


def circles(root: Path, packages: tuple[str, ...]) -> list[list[str]]:
    """Files that import each other in a circle when they are loaded; imports inside functions do not count."""
    graph = {
        file: {target for name in imports(root, file, late=False) if (target := file_of(root, name)) and target != file}
        for file in sources(root, *packages)
    }
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(file: str, way: list[str]) -> None:
        if file in way:
            found.append([*way[way.index(file) :], file])
        elif file not in done:
            for target in sorted(graph.get(file, ())):
                visit(target, [*way, file])
            done.add(file)

    for file in graph:
        visit(file, [])
    return found


def test_no_module_imports_in_a_circle():
    assert circles(ROOT, PACKAGES) == []


def test_a_circle_is_found(tmp_path):
    (tmp_path / "qwen2").mkdir()
    (tmp_path / "qwen2" / "a.py").write_text("from qwen2 import b\n")
    (tmp_path / "qwen2" / "b.py").write_text("import qwen2.a\n")
    assert circles(tmp_path, ("qwen2",)) == [["qwen2/a.py", "qwen2/b.py", "qwen2/a.py"]]


@pytest.mark.parametrize("package", DESCRIBED)
def test_every_module_has_a_row_and_every_row_a_module(package):
    section = DOCUMENT.split(f"\n## Modules of {package}\n")[1].split("\n## ")[0]
    named = [name for line in section.splitlines() if line.startswith("| `") for name in quoted(line.split("|")[1])]
    files = [file for file in sources(ROOT, package) if not file.endswith("/__init__.py")]
    for file in files:
        assert any(within(file, f"{package}/{name}") for name in named), f"docs/architecture.md has no row for {file}"
    for name in named:
        assert any(within(file, f"{package}/{name}") for file in files), f"docs/architecture.md: {name} is not there"


def test_every_folder_has_a_row_and_every_row_a_folder():
    rows = DOCUMENT.split("\n\n")[2].splitlines()[2:]
    named = [name for row in rows for name in quoted(row.strip("|").split("|")[0])]
    assert {"host/", "qwen2/", "Dockerfile"} <= set(named)
    for name in named:
        assert (ROOT / name).exists(), name
    for package in PACKAGES:
        assert f"{package}/" in named, f"docs/architecture.md has no row for {package}/"
