"""Whether ms-swift reads a file's rows as they are: the form of a row, names and types; check uses it."""

from __future__ import annotations

from typing import Any

from qwen2.rows import KNOWN, MESSAGE_KEYS

DEEPEST = 32  # levels of lists and objects in a row; tools have some ten
# What changes how ms-swift lays a row out, and what the fast lane has no place for.
NOT_FOR_BOTH = ("chat_template_kwargs", "objects")


def shape_of(value: Any, depth: int = 0) -> Any:
    """The form of a row: names and types. Rows of several forms make pyarrow, under ms-swift, stop or mix them up.

    Raises RecursionError if it is nested deeper than any row of a dataset.
    """
    if depth > DEEPEST:
        raise RecursionError
    if isinstance(value, dict):
        if all(type(item) is str for item in value.values()):
            return tuple(sorted(value))  # the usual row, in a third of the time
        return tuple((key, shape_of(item, depth + 1)) for key, item in sorted(value.items()))
    if isinstance(value, list):
        return ("list", frozenset(shape_of(item, depth + 1) for item in value))
    return type(value).__name__


def is_plain(shape: Any) -> bool:
    """Whether ms-swift reads rows of this form as the fast lane does; the others are converted for it.

    Not so: lists whose items differ, which pyarrow refuses or fills with nulls; messages with more than two texts, or
    with something else than texts; tools as anything but a list; names in capitals, which ms-swift takes only where
    nothing else could be meant.
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
    """Messages whose two fields are texts, or all of them as one text."""
    if form == "str":
        return True
    if not isinstance(form, tuple) or len(form) != 2 or form[0] != "list":
        return False
    return all(isinstance(m, tuple) and len(m) == 2 and all(isinstance(name, str) for name in m) for m in form[1])


def _is_even(shape: Any) -> bool:
    if isinstance(shape, frozenset):
        return len(shape) < 2 and all(_is_even(item) for item in shape)
    return all(_is_even(item) for item in shape) if isinstance(shape, tuple) else True
