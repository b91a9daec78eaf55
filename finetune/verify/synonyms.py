"""Words that mean the same to a customer: rewordings exchange them; the judge and near misses take them for one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("synonyms.yaml")


@cache
def tables() -> dict[str, dict[str, str]]:
    """Word -> other word, by part of speech: `nouns` with their plurals, `verbs`, `others`, `zh`; and `same`."""
    import yaml

    read = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    nouns = read["nouns"] | {plural(one): plural(other) for one, other in read["nouns"].items()}
    return {**read, "nouns": nouns}


@cache
def pairs() -> Sequence[tuple[str, str]]:
    """All pairs of words that mean the same."""
    return [pair for table in tables().values() for pair in table.items()]


def plural(word: str) -> str:
    """The plural of an English noun or noun phrase; names and Chinese stay."""
    if not word.isascii() or word[:1].isupper():
        return word
    if word == "child":
        return "children"
    if word.endswith("y") and word[-2] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}es" if re.search(r"(?:s|x|ch|sh)$", word) else f"{word}s"
