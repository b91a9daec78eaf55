"""Explains mistakes in JSON that a person wrote or a tool exported; used by reading."""

from __future__ import annotations

import json
import re
from typing import Any

from common.i18n import N_, _
from qwen2.rows import MESSAGE_KEYS, QUERY_KEYS, RESPONSE_KEYS

# In lower case. An object with one of these fields is a row, whatever else is wrong with it.
ROW_NAMES = {*QUERY_KEYS, *RESPONSE_KEYS, *MESSAGE_KEYS, "chosen", "rejected", "tools", "history"}
COMMENT = re.compile(r"//|/\*|#")
DEEPEST = 3  # levels of nested objects that are searched for a list of rows
LIST = N_('write a list of rows: [{"instruction": ..., "input": "", "output": ...}, ...], or name a table .csv')
NO_COMMENTS = N_("JSON has no comments: remove them")
WRAP = N_('a list of messages is one row: write it as {"messages": [...]}, one row per line')


def beginning(first: str) -> tuple[str, str]:
    """(what, remedy) of a file that begins with neither [ nor {."""
    if first in ("/", "#"):
        return _("not JSON, it begins with {first!r}").format(first=first), _(NO_COMMENTS)
    return _("not JSON, it begins with {first!r}").format(first=first), _(LIST)


def explain(text: str, error: json.JSONDecodeError) -> tuple[str, str]:
    """(what, remedy) of JSON that cannot be parsed. `text` is what the positions in `error` refer to."""
    message = error.msg[:1].lower() + error.msg[1:]  # part of a sentence here
    return _("not JSON, {reason}").format(reason=message), _hint(text, error)


def long_number() -> tuple[str, str]:
    """(what, remedy) for a plain ValueError of json, which is the digit limit of int()."""
    return _("a number of more than 4300 digits"), _("put quotes around it")


def _hint(text: str, error: json.JSONDecodeError) -> str:
    """What to look at, for the usual mistakes in hand-written JSON."""
    near = text[max(0, error.pos - 2) : error.pos + 2]
    here = text[error.pos : error.pos + 1]
    rest = text[error.pos : error.pos + 80].lstrip(" \t\r\n,")
    if error.msg.startswith("Unterminated string"):
        return _("a closing quote is missing")
    if error.msg.startswith("Invalid control character"):
        return _("write a line break in a text as \\n")
    if error.msg.startswith("Invalid \\escape"):
        return _("write a backslash as \\\\")
    if COMMENT.match(rest):
        return _(NO_COMMENTS)
    if error.msg.startswith("Extra data") and here == ",":
        return _("remove the comma at the end of the line, or put [ and ] around all rows")
    if error.msg.startswith("Extra data") and here in "{[":
        return _("start a new line before it: one row per line")
    if any(mark in near for mark in "“”‘’"):
        return _('use straight quotes "')
    if any(mark in near for mark in "\uff0c\uff1a"):
        return _("use the ASCII comma and colon outside of texts")
    if "'" in near:
        return _('use double quotes "')
    if here in "}]" and "," in text[max(0, error.pos - 80) : error.pos]:
        return _("remove the comma before it")
    return _("check this position and what is just before it")


def rows_below(value: Any) -> str:
    """The keys that lead to the first list of rows in an object, such as `data.train`; "" if there is none."""
    return ".".join(_path(value, DEEPEST))


def _path(value: Any, depth: int) -> list[str]:
    if not isinstance(value, dict) or is_row(value) or depth == 0:
        return []
    found = []
    for key, inner in value.items():
        if _is_list_of_rows(inner):
            found.append([key])
        elif below := _path(inner, depth - 1):
            found.append([key, *below])
    if not found and len(value) > 1 and all(isinstance(inner, dict) and is_row(inner) for inner in value.values()):
        return [next(iter(value))]  # a mapping of ids or names to rows
    return found[0] if found else []


def is_row(value: dict[Any, Any]) -> bool:
    """Whether an object has a field of a row."""
    return any(str(key).lower() in ROW_NAMES for key in value)


def is_chat(value: Any) -> bool:
    """Whether a value is a list of messages."""
    return isinstance(value, list) and bool(value) and is_message(value[0])


def is_message(value: Any) -> bool:
    """Whether a value is one message of a conversation rather than a row."""
    return isinstance(value, dict) and ({"role", "content"} <= value.keys() or {"from", "value"} <= value.keys())


def _is_list_of_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and (isinstance(value[0], dict) or is_chat(value[0]))
