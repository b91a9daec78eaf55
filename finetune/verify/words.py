"""What the reports say, in English and in Chinese: words.zh.yaml holds every sentence once, as gettext's catalogues do.

Code writes English. `Said` is an English sentence that remembers what it was made from, so that it can be said again in
the language of a report; `speaker(language)` gives the function that does it.
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
    """An English sentence with the pattern and the values that it was made from."""

    pattern: str
    values: dict[str, Any]

    def __new__(cls, pattern: str, /, **values: Any) -> Said:
        """`pattern` as str.format takes it; values may be Said themselves."""
        made = super().__new__(cls, pattern.format(**values))
        made.pattern, made.values = pattern, values
        return made


@cache
def catalogue() -> dict[str, str]:
    """English pattern -> Chinese pattern."""
    import yaml

    return dict(yaml.safe_load(CATALOGUE.read_text(encoding="utf-8")))


def speaker(language: str) -> Speaker:
    """The function that says a text, or a pattern with its values, in `language`."""

    def say(text: str, /, **values: Any) -> str:
        pattern, given = (text.pattern, text.values) if isinstance(text, Said) else (text, values)
        if language == "zh":
            pattern = catalogue().get(pattern, pattern)
        if isinstance(text, Said) or values:
            return pattern.format(**{key: say(v) if isinstance(v, Said) else v for key, v in given.items()})
        return pattern

    return say
