"""What a user reads is given to `_()`: an error, a printed line or a help text in plain English fails here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from host import messages

ROOT = Path(__file__).resolve().parents[3]
SAYING = {"UserError", "tell", "error", "ArgumentTypeError", "print"}
HELPING = {"add_argument", "add_argument_group", "add_parser", "Parser", "ArgumentParser"}
HELP = {"help", "description", "epilog"}
# say: a report's own catalogue, finetune/verify/words.zh.yaml; is_not gives its text to `_()` itself.
TRANSLATED = {"_", "N_", "say", "is_not"}
# What stays English, by file. `*`: all of the file; else the beginning of a text.
ENGLISH = {
    "common/i18n.py": ("*", "says that the catalogue cannot be read"),
    "common/state.py": ("*", "imported by the probe, which loads the standard library alone"),
    "finetune/engines/swift/options.py": ("*", "LookupError, caught where it is raised"),
    "finetune/engines/swift/plugins": ("*", "lines in ms-swift's own log, which is English"),
    "finetune/export/gguf_engine.py": ("a GGUF takes no adapter", "a fault of the code that calls it"),
    "finetune/serve/api.py": ("*", "the API's errors, JSON for programs, and its log"),
    "finetune/serve/fast/client.py": ("*", "an error of the API"),
    "finetune/serve/fields.py": ("*", "the API's errors"),
    "finetune/serve/messages.py": ("*", "the API's errors"),
    "finetune/serve/request.py": ("*", "the API's errors"),
    "finetune/verify/judge/structured.py": ("neither an object nor a list", "caught where it is raised"),
    "finetune/verify/sandbox.py": ("*", "runs an answer's code without any import of ours"),
    "finetune/verify/stats.py": ("a share of nothing", "a fault of the code that calls it"),
    "healthchecks/cli.py": ("*", "ValueError, caught where it is raised"),
    "healthchecks/probe.py": ("*", "one line for Docker and Kubernetes; loads the standard library alone"),
    "qwen2/serving": ("*", "errors of the API"),
}


def called(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def texts(node: ast.AST) -> Iterator[str]:
    """English sentences below a node that are not given to `_()`."""
    if isinstance(node, ast.Call) and called(node.func) in TRANSLATED:
        return
    if isinstance(node, ast.JoinedStr):
        plain = " ".join(str(each.value) for each in node.values if isinstance(each, ast.Constant))
        if re.search(r"[A-Za-z]{3,} [A-Za-z]{2,}|^ ?[a-z]{3,} $", plain):
            yield plain
        for each in node.values:
            if isinstance(each, ast.FormattedValue):
                yield from texts(each.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        if re.search(r"[A-Za-z]{2,} [A-Za-z]{2,}", node.value):
            yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


def untranslated(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every English text in a call that a user sees the result of."""
    for node in ast.walk(ast.parse(source)):
        seen: list[ast.expr] = []
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            seen = [*node.exc.args, *(each.value for each in node.exc.keywords)]
        elif isinstance(node, ast.Call) and called(node.func) in SAYING:
            seen = list(node.args)
        elif isinstance(node, ast.Call) and called(node.func) in HELPING:
            seen = [each.value for each in node.keywords if each.arg in HELP]
        for each in seen:
            for text in texts(each):
                yield each.lineno, text


def allowed(file: str, text: str) -> bool:
    return any(
        (file == place or file.startswith(f"{place}/")) and (begins == "*" or text.startswith(begins))
        for place, (begins, _why) in ENGLISH.items()
    )


def test_what_a_user_reads_is_translatable():
    found = set()
    for folder in messages.FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            file = path.relative_to(ROOT).as_posix()
            found |= {
                f"{file}:{line}: {text}"
                for line, text in untranslated(path.read_text(encoding="utf-8"))
                if not allowed(file, text)
            }
    assert sorted(found) == [], 'give it to _("…"), and its Chinese to common/locale/zh.po'


def test_every_exception_is_needed():
    needed = set()
    for folder in messages.FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            file = path.relative_to(ROOT).as_posix()
            for _line, _text in untranslated(path.read_text(encoding="utf-8")):
                needed |= {place for place in ENGLISH if file == place or file.startswith(f"{place}/")}
    assert set(ENGLISH) - needed == set()


def test_a_planted_message_is_found():
    planted = (
        'raise UserError(f"{path}: cannot be read")\n'
        'print("two words")\n'
        'parser.add_argument("--x", help="what it does")\n'
        'raise ValueError("no such thing")\n'
        'raise UserError(_("{path}: is fine").format(path=path))\n'
    )
    assert {line for line, _text in untranslated(planted)} == {1, 2, 3, 4}
