"""What a text affirms and what it denies, thing by thing, and where two texts disagree; `compare` asks.

Clauses are not compared with clauses: `no reptiles` and `We do not treat reptiles` deny the same thing, and a condition
(`没有电梯的话`) denies nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from finetune.verify.judge.polarity import LIGHT, ONLY, affirmed, denials
from finetune.verify.judge.text import CJK, PLACE, clauses, content

NEARLY = 0.6  # share of the words of a thing by which a text names it
# The commas of a list: `food, animals or anything that burns`
_ROW = re.compile(r",\s(?=(?:[\w-]+\s){0,2}[\w-]+(?:,\s(?:[\w-]+\s){0,2}[\w-]+)*,?\s(?:or|and|nor)\s)")
_BOTH = re.compile(r"(不[^不,。]{1,2})(?=不[^不,。])")  # `不退不换` denies two things
_WORD = re.compile(rf"[{CJK}]|[^\W{CJK}]+(?:[-'][^\W\d]+)*|[{PLACE}]")
_LIST = re.compile(r"\b(?:and|or|nor)\b|[和与或、]|以及|(?<!不)及(?![格时])")


@dataclass(frozen=True)
class _Item:
    """A thing of a clause: its words less those that deny, whether it is denied, and whether any word denies in it.

    `root`: the first word behind the denial, which is what is denied (`cannot be *returned* for safety reasons`).
    """

    clause: str
    words: frozenset[str]
    denied: bool
    marked: bool
    root: frozenset[str] = frozenset()


class Claims:
    """The things that a text affirms, and those that it denies: `no food and no water`, `不要用热水和酒精`."""

    def __init__(self, text: str) -> None:
        self.items = [
            item
            for clause in clauses(_BOTH.sub(r"\1、", _ROW.sub(" or ", text)))
            if not ONLY.search(clause)  # `only for listed buildings`, `not unless it is one`: beyond counting
            for item in _items(clause)
        ]
        self.told = _words(item for item in self.items if not item.denied)
        self.denied = _words(item for item in self.items if item.denied)

    def against(self, reference: Claims, question: str) -> str:
        """The clause that affirms what the reference denies, or denies what it affirms; empty if none does.

        A thing that is only named may be denied where the question asks what is not so (`When are you closed?`).
        """
        free = denials(question) % 2 == 1
        told = _words(item for item in self.items if not item.denied and (item.marked or not free)) - self.denied
        for item in reference.items:
            thing = item.words - reference.told
            if item.denied and item.root <= told and len(thing & told) > NEARLY * len(thing):
                return next(own.clause for own in self.items if own.words & thing & told)
        asked = content(question)
        for item in self.items:
            thing = item.words - asked or item.words
            if (
                item.denied
                and item.root <= reference.told
                and len(thing & reference.told) > max(NEARLY * len(thing), len(thing & reference.denied))
            ):
                return item.clause
        return ""


def _items(clause: str) -> list[_Item]:
    """The things of a clause. What follows a denied one in a list is denied, too, and so is what stands before it where
    the denial comes last (`hot water and alcohol are not allowed`)."""
    found: list[_Item] = []
    denied = False
    for part in _LIST.split(clause):
        count, (before, *rest) = denials(part), affirmed(part)
        denied = count % 2 == 1 if count else denied
        if denied and content(before):
            found = [_Item(clause, item.words, True, True) for item in found]
        words = content(" ".join([before, *rest])) - LIGHT
        behind = (own for word in _WORD.findall(" ".join(rest)) if (own := content(word) - LIGHT))
        found.append(_Item(clause, words, denied, count > 0, next(behind, frozenset())))
    return found


def _words(items: Iterable[_Item]) -> frozenset[str]:
    return frozenset().union(*(item.words for item in items))
