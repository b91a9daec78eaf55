"""Near misses by rules: the thing or name that a question is about, exchanged for one that the data never mention.

near.py uses them where the base writes none that fits. A question without a known thing is asked about an invented
firm.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from finetune.verify.judge.units import UNIT
from finetune.verify.rewordings.rules import articles
from finetune.verify.sets.rows import DataRow, digest, language
from finetune.verify.synonyms import plural

WORDS = Path(__file__).with_name("near_words.yaml")
# `article 17`, `room B204`, `E-4012`: a number that says which one; followed by a unit, it says how much
CODE = re.compile(
    r"(?<![\w.,-])(?:[A-Za-z]{1,4}-?\d{2,6}(?![\w:%-]|[.,]\d)"
    rf"|\d{{2,6}}(?![\w:%-]|[.,]\d|\s?{UNIT}|\s?[\u4e00-\u9fff]))",
    re.IGNORECASE,
)
BEHIND_NOUN = re.compile(
    r"(?:\b(?!(?:the|and|for|over|than|with|from|after|under|about|until|above|below|aged|before)\b)[a-z]{3,}"
    r"|[\u4e00-\u9fff])\s?$",
    re.IGNORECASE,
)
NO_NAME = re.compile(
    r"(?:mon|tues|wednes|thurs|fri|satur|sun)days?|(?:jan|febr)uary|march|april|may|june|july|august|october"
    r"|(?:sept|nov|dec)ember|christmas|easter",
    re.IGNORECASE,
)
IN_A_SENTENCE = re.compile(r"\b(?:is|are|do|does|can|will|my|your|the|an?|to|of|for|in|at|on|it|i)\b")  # Not In A Title
NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}(?:[A-Z][a-z]+)*(?: [A-Z][a-z]+)*")  # capital letters inside a sentence
QUOTED = re.compile('["“「『《](?P<name>[^"”」』》]{2,20})["”」』》]')
PART_OF = re.compile(r"^[\s-](?:number|address|code|case|size|name|call|card)\b", re.I)  # a `phone number` is no phone


@dataclass(frozen=True)
class Thing:
    """Something that a question names: `old`, which begins at `start`, and what may replace it."""

    old: str
    start: int
    new: tuple[str, ...]
    rarity: int  # rows of the data that name it


class Mentions:
    """What the data mention anywhere, and which things may take the place of which."""

    def __init__(self, rows: Sequence[DataRow]) -> None:
        self.texts = [plain(f"{row.question}\n{row.answer}") for row in rows]
        self.all = "\n".join(self.texts)
        self.words = frozenset(form for word in words(self.all) for form in forms(word))

    def knows(self, text: str) -> bool:
        """Whether the data mention a thing, a part of it included."""
        text = plain(text)
        if re.search(r"[\u3400-\u9fff]", text):
            return text in self.all
        return any(forms(word) & self.words for word in words(text))

    def near_misses(self, question: str) -> Iterator[str]:
        """The question about things that no row mentions; what the fewest rows speak of is exchanged first."""
        tongue = language([question])
        table = tables()[tongue]
        for thing in sorted(_whole(self._things(question, tongue)), key=lambda thing: (thing.rarity, thing.start)):
            for new in _rotated([new for new in thing.new if not self.knows(new)], question):
                text = question[: thing.start] + new + question[thing.start + len(thing.old) :]
                yield articles(text) if tongue == "en" else text
        first = question[:1] if tongue == "zh" or re.match(r"(?:I|[A-Z]\w*[A-Z])\b", question) else question[:1].lower()
        for name in _rotated([name for name in table["invented"] if not self.knows(name)], question):
            yield str(table["other"]).format(name=name, question=first + question[1:])

    def _things(self, question: str, tongue: str) -> Iterable[Thing]:
        for kind in _kinds(tongue):
            for matched in kind.pattern.finditer(question):
                if not PART_OF.match(question[matched.end() :]):
                    group = kind.group(matched[0])
                    many = matched[0].lower() not in kind.group_of
                    others = [each[0] for n, each in enumerate(kind.groups) if n != group and self._unknown(each)]
                    yield self._thing(matched[0], matched.start(), [plural(each) if many else each for each in others])
        for matched in CODE.finditer(question):
            if BEHIND_NOUN.search(question[: matched.start()]) or not matched[0].isdigit():
                yield self._thing(matched[0], matched.start(), _other_codes(matched[0]))
        names = NAME.finditer(question) if IN_A_SENTENCE.search(question) else ()
        for matched in (*names, *QUOTED.finditer(question)):
            name = matched.groupdict().get("name") or matched[0]
            if not NO_NAME.search(name):
                yield self._thing(name, matched.start() + matched[0].index(name), tables()[tongue]["invented"])

    def _unknown(self, group: Sequence[str]) -> bool:
        return not any(self.knows(word) for word in group)

    def _thing(self, old: str, start: int, new: Iterable[str]) -> Thing:
        return Thing(old, start, tuple(new), sum(plain(old) in text for text in self.texts))


@dataclass(frozen=True)
class _Kind:
    """Things of one kind: groups of synonyms, and the pattern that finds one in a question."""

    groups: tuple[tuple[str, ...], ...]
    group_of: dict[str, int]  # in lower case
    pattern: re.Pattern[str]

    def group(self, word: str) -> int:
        """The place of the group that a word belongs to, in the singular or the plural."""
        if word.lower() in self.group_of:
            return self.group_of[word.lower()]
        return next(self.group_of[form] for form in forms(word.lower()) if form in self.group_of)


@cache
def tables() -> dict[str, Any]:
    """near_words.yaml."""
    import yaml

    return dict(yaml.safe_load(WORDS.read_text(encoding="utf-8")))


@cache
def _kinds(tongue: str) -> tuple[_Kind, ...]:
    found = []
    for line in (*tables()[tongue]["things"], *tables()[tongue]["names"]):
        groups = tuple(tuple(entry.split("=")) for entry in line)
        group_of = {word.lower(): n for n, group in enumerate(groups) for word in group}
        spelled = {each for word in group_of for each in (word, plural(word))}
        alternatives = "|".join(map(re.escape, sorted(spelled, key=len, reverse=True)))
        bound = r"\b" if tongue == "en" else ""
        found.append(_Kind(groups, group_of, re.compile(f"{bound}(?:{alternatives}){bound}", re.IGNORECASE)))
    return tuple(found)


def plain(text: str) -> str:
    """A text without case and width."""
    return unicodedata.normalize("NFKC", text).lower()


def words(text: str) -> list[str]:
    """The words of two letters or digits and more; Chinese has none."""
    return re.findall(r"[a-z0-9][a-z0-9'-]+", plain(text))


def forms(word: str) -> set[str]:
    """A word, and what it may be the plural of: horses, and horse, hors."""
    found = {word, "child"} if word == "children" else {word}
    for ending, instead in (("ies", "y"), ("es", ""), ("s", "")):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            found.add(word.removesuffix(ending) + instead)
    return found


def _whole(things: Iterable[Thing]) -> list[Thing]:
    """Those that are not part of a longer one: a `car park` is not a car."""
    found = list(things)

    def part(one: Thing, other: Thing) -> bool:
        inside = other.start <= one.start and one.start + len(one.old) <= other.start + len(other.old)
        return inside and len(one.old) < len(other.old)

    return [one for one in found if not any(part(one, other) for other in found)]


def _other_codes(code: str) -> list[str]:
    """Numbers of as many digits: 17 -> 94, 61; E-4012 -> E-9358."""
    head = re.match(r"\D*", code)
    letters, digits = (head[0], code[head.end() :]) if head else ("", code)
    size = 10 ** len(digits)
    return [f"{letters}{(int(digits) * 7 + step) % (size - size // 10) + size // 10}" for step in (77, 31, 59, 13, 91)]


def _rotated(options: Sequence[str], question: str) -> Sequence[str]:
    """All options, beginning with one that the question alone decides."""
    first = int.from_bytes(digest(question), "big") % len(options) if options else 0
    return [*options[first:], *options[:first]]
