"""The options of the installed ms-swift, read from its source without importing it; used by the swift launcher.

ms-swift reports an unknown option after 15 s of imports, with a traceback. Its options are the fields of dataclasses,
some inherited from transformers, so it is enough to parse a dozen files as syntax trees. The image contains the result
for its own versions (image/list_options.py); for other versions the source is read on demand.
"""

from __future__ import annotations

import ast
import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from common.i18n import _
from finetune.engines.swift.arguments import Arguments

# Replies to ms-swift (its own values for a boolean option): any other word after such an option is a question.
TRUE = frozenset({"yes", "true", "t", "y", "1"})
FALSE = frozenset({"no", "false", "f", "n", "0"})
TRUTH = TRUE | FALSE
WRITTEN = Path(__file__).with_name("options.json")  # by image/list_options.py
# Subcommand -> the dataclass its pipeline parses (swift/pipelines/*: `args_class`).
ARGUMENTS = {
    "pt": "PretrainArguments",
    "sft": "SftArguments",
    "rlhf": "RLHFArguments",
    "infer": "InferArguments",
    "deploy": "DeployArguments",
    "export": "ExportArguments",
    "merge-lora": "ExportArguments",
    "eval": "EvalArguments",
    "app": "AppArguments",
    "web-ui": "WebUIArguments",
    "rollout": "RolloutArguments",
    "sample": "SamplingArguments",
}


@dataclass(frozen=True)
class Option:
    """One field: its type in the words of `kind`, and the values of a Literal."""

    kind: str  # int, float, bool, choice, list or text (anything else: the value is not checked)
    choices: tuple[str, ...] = ()


def options_of(command: str) -> dict[str, Option]:
    """The options of one subcommand. Empty if the source cannot be read: then nothing is checked, and ms-swift itself
    reports errors as usual."""
    try:
        held = json.loads(WRITTEN.read_bytes())
        if held["packages"] == _packages():
            return {name: Option(kind, tuple(choices)) for name, (kind, choices) in held["options"][command].items()}
    except (OSError, ValueError, LookupError, TypeError):
        pass  # not in an image, or in another one: read the source
    return options_in_source(command)


def write() -> None:
    """Write the options of all subcommands, with the package versions, to WRITTEN."""
    found = {command: options_in_source(command) for command in ARGUMENTS}
    texts = {name: {key: (one.kind, one.choices) for key, one in options.items()} for name, options in found.items()}
    WRITTEN.write_text(json.dumps({"packages": _packages(), "options": texts}), encoding="utf-8")


def _packages() -> list[str]:
    """The versions of ms-swift and transformers, from their folder names: importlib.metadata alone takes 40 ms."""
    site = _module_file("swift")[0].parents[1]
    return sorted(path.name for name in ("ms_swift", "transformers") for path in site.glob(f"{name}-*.dist-info"))


def options_in_source(command: str) -> dict[str, Option]:
    """The options of one subcommand, read from the source; empty if it cannot be read."""
    try:
        return _fields("swift.arguments", ARGUMENTS[command])
    except (OSError, SyntaxError, LookupError):
        return {}


def suggestion(name: str, options: Iterable[str]) -> str:
    """`, did you mean --x?` for a name close to an option's, else nothing."""
    close = difflib.get_close_matches(name, list(options), n=1, cutoff=0.75)
    return _(", did you mean --{name}?").format(name=close[0]) if close else ""


def _fields(module: str, name: str) -> dict[str, Option]:
    """The dataclass fields of a class and its bases; a class overrides what it inherits."""
    home, node = _find_class(module, name)
    found: dict[str, Option] = {}
    for base in reversed(node.bases):
        base_name = base.id if isinstance(base, ast.Name) else None
        if base_name and base_name not in ("object", "ABC"):
            found.update(_fields(home, base_name))
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = ast.unparse(statement.annotation)
            if not text.startswith("ClassVar") and "init=False" not in ast.unparse(statement):
                found[statement.target.id] = _option(statement.annotation)
    return found


def _option(annotation: ast.expr) -> Option:
    """The value type that a field's annotation requires. Optional[X] requires what X does."""
    text = ast.unparse(annotation).replace("typing.", "")
    if text.startswith("Optional[") and isinstance(annotation, ast.Subscript):
        return _option(annotation.slice)
    text = text.removesuffix(" | None")
    if text.startswith("Literal[") and isinstance(annotation, ast.Subscript):
        items = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return Option("choice", tuple(str(item.value) for item in items if isinstance(item, ast.Constant)))
    if text in ("int", "float", "bool"):
        return Option(text)
    if text.startswith(("List[", "list[")):
        return Option("list")
    return Option("text")


@cache
def _find_class(module: str, name: str) -> tuple[str, ast.ClassDef]:
    """The module and definition behind a name, following imports.

    Raises LookupError if it cannot be found.
    """
    path, is_package = _module_file(module)
    tree = _tree(path)
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef) and statement.name == name:
            return module, statement
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find_class(_absolute(module, is_package, node), alias.name)
    raise LookupError(f"{name} is not defined in {module}")


def _absolute(module: str, is_package: bool, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def _module_file(module: str) -> tuple[Path, bool]:
    """A module's source file and whether it is a package. Finding the top package imports nothing; below it the path is
    built by hand, since find_spec("swift.arguments") would import swift."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise LookupError(f"no package {top}")
    folder = Path(next(iter(spec.submodule_search_locations)))
    path = folder.joinpath(*rest)
    if (path / "__init__.py").is_file():
        return path / "__init__.py", True
    return path.with_suffix(".py"), False


def take_questions(args: Arguments, options: dict[str, Option]) -> list[str]:
    """The words that belong to no option, removed from the arguments: those are questions."""
    questions, args.leading = args.leading, []
    for item in args.given:
        option = options.get(item.name)
        if option is None or option.kind == "list":
            continue
        is_question = option.kind == "bool" and item.values and item.values[0].lower() not in TRUTH
        keep = 1 if item.joined or not is_question else 0  # joined: the value after the =
        questions += item.values[keep:]
        item.values = item.values[:keep]
    return questions
