"""References that are labels, JSON or code: which they are, and whether an answer is the same; `judge` calls it."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from finetune.verify.judge.text import CJK, fold

LABEL_LETTERS = 40  # a longer output is a sentence
REPEATS = 4  # how often each distinct output stands in data that are labels, on average
_FENCE = re.compile(r"```[ \t]*[\w+#.-]*[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL)


def label(text: str) -> str:
    """A label as it is compared: no case, quotes, emphasis, spaces at its ends or punctuation around it."""
    text = re.sub(r"[\s_]+", " ", fold(text).casefold())
    return text.strip(" \t\n\"'.,;:!?。，、；：！？“”‘’「」『』《》【】()[]<>#*`~")


def labels(answers: Sequence[str]) -> set[int]:
    """The rows whose reference is a label: short outputs of which few distinct ones stand for many rows.

    At least 8 rows and two distinct outputs, each repeated 4 times on average, over 80 % of the data. Rare classes
    count with the others. In mixed data (labels beside conversations) only outputs that stand ten times or
    more are labels. A FAQ's short answers differ from each other, so they are text.
    """
    short = {n: label(text) for n, text in enumerate(answers) if _is_short(text)}
    counts = Counter(short.values())
    if len(counts) >= 2 and len(short) >= max(8, 0.8 * len(answers)) and len(short) >= REPEATS * len(counts):
        return set(short)
    frequent = {name for name, count in counts.items() if count >= 10}
    return {n for n, name in short.items() if name in frequent} if len(frequent) >= 2 else set()


def _is_short(text: str) -> bool:
    shown = label(text)
    han = len(re.findall(f"[{CJK}]", shown))
    words = len(re.findall(r"[^\W\d]+", shown))
    sentence = re.search(r"[.!?。！？,，;；]\s*\S", text.strip()) is not None
    return (
        bool(shown)
        and "\n" not in text.strip()
        and len(shown) <= LABEL_LETTERS
        and han <= 12
        and words <= 6
        and not sentence
    )


def parsed_json(text: str, anywhere: bool = False) -> Any:
    """The JSON object or list that a text is; with `anywhere` one in a fence or between other words counts, too.

    Raises ValueError if there is none.
    """
    text = text.strip()
    fenced = _FENCE.search(text)
    if fenced:
        text = fenced[1].strip()
    elif anywhere and text[:1] not in "{[":
        start = re.search(r"[{\[]", text)
        if start:
            value, _ = json.JSONDecoder().raw_decode(text[start.start() :])
            return _container(value)
    if anywhere and text[:1] in ("{", "["):
        value, end = json.JSONDecoder().raw_decode(text)
        if not re.search(r"[{}\[\]\"]", text[end:]):
            return _container(value)
    return _container(json.loads(text))


def _container(value: Any) -> Any:
    if not isinstance(value, (dict, list)):
        raise ValueError("neither an object nor a list")
    return value


def json_differences(wanted: Any, got: Any, path: str = "") -> tuple[list[str], list[str]]:
    """(missing, wrong) of one JSON value against another: keys that are not there, keys and values that are others."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        missing = [f"{path}{key}" for key in wanted if key not in got]
        wrong = [f"{path}{key}" for key in got if key not in wanted]
        for key in wanted.keys() & got.keys():
            below = json_differences(wanted[key], got[key], f"{path}{key}.")
            missing, wrong = missing + below[0], wrong + below[1]
        return missing, wrong
    if isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        pairs = [json_differences(a, b, f"{path}{n}.") for n, (a, b) in enumerate(zip(wanted, got, strict=True))]
        return [m for missing, _ in pairs for m in missing], [w for _, wrong in pairs for w in wrong]
    if _scalar(wanted) == _scalar(got):
        return [], []
    return [], [f"{path.rstrip('.')}: {json.dumps(got, ensure_ascii=False)[:60]}"]


def _scalar(value: Any) -> Any:
    """Text is compared without regard to case, width and outer spaces; 1 and 1.0 are one number, true is none."""
    if isinstance(value, bool) or value is None:
        return repr(value)
    return fold(value).casefold() if isinstance(value, str) else value


_CODE = re.compile(
    r"^\s*(?:def \w+\(|class \w+|import \w+|from \w[\w.]* import |for \w+ in |while .+:$|return\b|print\(|@\w+)"
    r"|^\s*\w+ ?= ?[^=\s].*[(\[]|;\s*$"
    r"|^\s*(?:function|const|let|var|public|private|#include|SELECT|INSERT|UPDATE|CREATE) ",
    re.MULTILINE,
)


def code(text: str) -> str:
    """The code of an answer: its fenced blocks, or all of it."""
    blocks = _FENCE.findall(text)
    return "\n".join(blocks) if blocks else text


def is_code(text: str) -> bool:
    """Whether a reference is code: a fence that fills most of it, or lines of a programming language."""
    blocks = _FENCE.findall(text)
    if blocks:
        return sum(map(len, blocks)) >= 0.5 * len(text)
    return _CODE.search(text) is not None and (python(text) is not None or len(_CODE.findall(text)) >= 2)


def python(text: str) -> tuple[Any, ...] | None:
    """What a Python text does, in a form that can be compared; None if it does not parse.

    Spacing, comments, docstrings and the names of parameters and local variables do not count; names of functions,
    constants and operators do.
    """
    try:
        tree = ast.parse(code(text).strip("\n"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    local = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    local |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and len(body) > 1 and _is_text(body[0]):
            del body[0]
        if isinstance(node, ast.arg):
            node.arg, node.annotation = names.setdefault(node.arg, f"_{len(names)}"), None
        elif isinstance(node, ast.Name) and node.id in local:
            node.id = names.setdefault(node.id, f"_{len(names)}")
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
    return (ast.dump(tree, annotate_fields=False),)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def code_tokens(text: str) -> list[str]:
    """Identifiers, numbers and signs of code in any language, without white space."""
    return re.findall(r"\w+|[^\w\s]", code(text))
