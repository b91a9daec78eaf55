"""Translates the sentences of reports: words.zh.yaml is their catalogue, like those of gettext.

Code is written with English sentences. A `Said` is an English sentence that keeps its pattern and values, from which
the function that `speaker(language)` returns makes the sentence in the language of a report.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

CATALOGUE = Path(__file__).with_name("words.zh.yaml")
LANGUAGES = ("zh", "en")

Speaker = Callable[..., str]


class Said(str):
    """An English sentence that keeps the pattern and the values it was made from."""

    pattern: str
    values: dict[str, Any]

    def __new__(cls, pattern: str, /, **values: Any) -> Said:
        """`pattern` is for str.format; values may be of type Said."""
        made = super().__new__(cls, pattern.format(**values))
        made.pattern, made.values = pattern, values
        return made


@cache
def catalogue() -> dict[str, str]:
    """English pattern -> Chinese pattern."""
    import yaml

    return dict(yaml.safe_load(CATALOGUE.read_text(encoding="utf-8")))


def speaker(language: str) -> Speaker:
    """The function that translates a Said, or a pattern and its values, into `language`, one of LANGUAGES."""

    def say(text: str, /, **values: Any) -> str:
        pattern, given = (text.pattern, text.values) if isinstance(text, Said) else (text, values)
        if language == "zh":
            pattern = catalogue().get(pattern, pattern)
        if isinstance(text, Said) or values:
            return pattern.format(**{key: say(v) if isinstance(v, Said) else v for key, v in given.items()})
        return pattern

    return say
