"""Puts the parts of a question into other sentences; english.py and chinese.py have the patterns and the sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

NAMES = re.compile(r"\{(\w+)\}")


def parts_of(found: re.Match[str]) -> dict[str, str]:
    """The parts of a question by name. np, np2 and np3 are one part, in the alternatives of one pattern."""
    return {name.rstrip("23456789"): value for name, value in found.groupdict().items() if value is not None}


def filled(forms: Iterable[str], parts: Mapping[str, str]) -> Iterator[str]:
    """The sentences of which the question has all parts, with those put in."""
    return (form.format_map(parts) for form in forms if set(NAMES.findall(form)) <= set(parts))
