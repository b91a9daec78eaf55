"""Decides from the names and types in rows whether ms-swift reads a file as it is; check uses it."""

from __future__ import annotations

from typing import Any

from qwen2.rows import KNOWN, MESSAGE_KEYS

DEEPEST = 32  # levels of lists and objects in a row; tools have some ten
# Fields that change how ms-swift lays out a row and that the fast lane does not support.
NOT_FOR_BOTH = ("chat_template_kwargs", "objects")


def shape_of(value: Any, depth: int = 0) -> Any:
    """The form of a row: its names and types. pyarrow, below ms-swift, fails on rows of several forms or mixes them.

    Raises RecursionError if the row is nested deeper than DEEPEST.
    """
    if depth > DEEPEST:
        raise RecursionError
    if isinstance(value, dict):
        if all(type(item) is str for item in value.values()):
            return tuple(sorted(value))  # a short cut for the usual row: a third of the time
        return tuple((key, shape_of(item, depth + 1)) for key, item in sorted(value.items()))
    if isinstance(value, list):
        return ("list", frozenset(shape_of(item, depth + 1) for item in value))
    return type(value).__name__


def is_plain(shape: Any) -> bool:
    """Whether ms-swift reads rows of this form in the same way as the fast lane. Other rows are converted for it.

    It does not for: lists with items of different forms, which pyarrow refuses or fills with nulls; messages with
    other than two text fields; tools that are not a list; names in capitals, which ms-swift accepts only if they are
    unambiguous.
    """
    if not isinstance(shape, tuple) or not _is_even(shape):
        return False
    for item in shape:
        name, form = (item, "str") if isinstance(item, str) else item
        key = name.lower()
        if (
            (key != name and key in KNOWN)
            or key in NOT_FOR_BOTH
            or (key == "tools" and form[0] != "list")
            or (key in MESSAGE_KEYS and not _texts(form))
        ):
            return False
    return True


def _texts(form: Any) -> bool:
    """Whether a form is messages with two text fields each, or all messages as one text."""
    if form == "str":
        return True
    if not isinstance(form, tuple) or len(form) != 2 or form[0] != "list":
        return False
    return all(isinstance(m, tuple) and len(m) == 2 and all(isinstance(name, str) for name in m) for m in form[1])


def _is_even(shape: Any) -> bool:
    if isinstance(shape, frozenset):
        return len(shape) < 2 and all(_is_even(item) for item in shape)
    return all(_is_even(item) for item in shape) if isinstance(shape, tuple) else True
