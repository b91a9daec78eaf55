"""Finds the most similar of many questions, fast enough for thousands; used by rewordings, folds and sets.

A text is a set of character n-grams (three letters of a word, one or two Chinese characters), weighted by how rare each
is. Two texts are compared by the weighted Dice coefficient: 1 for equal sets, 0 for disjoint ones. Answers are not
compared here, but in judge/, by chrF against references.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

WORD = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+|[^\W_\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")


def grams(text: str) -> set[str]:
    """The n-grams of a text, without case, width and punctuation."""
    found: set[str] = set()
    for word in WORD.findall(unicodedata.normalize("NFKC", text).lower()):
        if ord(word[0]) >= 0x3400:
            found.update(word)
            found.update(word[i : i + 2] for i in range(len(word) - 1))
        else:
            padded = f" {word} "
            found.update(padded[i : i + 3] for i in range(len(padded) - 2))
    return found


class Nearness:
    """An index of texts; `scores` compares another text with all of them."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Index the texts: their n-grams, how rare each n-gram is, and which texts contain it."""
        import numpy as np

        bags = [grams(text) for text in texts]
        holders: dict[str, list[int]] = defaultdict(list)
        for number, bag in enumerate(bags):
            for gram in bag:
                holders[gram].append(number)
        self.count = len(bags)
        self.weight = {gram: self._rarity(len(who)) for gram, who in holders.items()}
        self.holders = {gram: np.asarray(who) for gram, who in holders.items()}
        self.norms = np.asarray([sum(self.weight[gram] for gram in bag) for bag in bags])

    def _rarity(self, holders: int) -> float:
        return math.log((1 + self.count) / (1 + holders)) + 0.1

    def scores(self, text: str) -> Any:
        """The similarity of `text` to each text in the index, from 0 to 1, as an array of floats."""
        import numpy as np

        bag = grams(text)
        norm = sum(self.weight.get(gram, self._rarity(0)) for gram in bag)
        shared = np.zeros(self.count)
        for gram in bag & self.weight.keys():
            shared[self.holders[gram]] += self.weight[gram]
        return 2 * shared / np.maximum(self.norms + norm, 1e-9)

    def between(self, one: str, other: str) -> float:
        """The likeness of two texts, from 0 to 1, weighed by the texts held."""
        bags = [grams(one), grams(other)]
        shared, *both = (
            sum(self.weight.get(gram, self._rarity(0)) for gram in bag) for bag in (bags[0] & bags[1], *bags)
        )
        return 2 * shared / max(sum(both), 1e-9)

    def nearest(self, text: str) -> tuple[int, float]:
        """(index of the most similar text, its similarity)."""
        found = self.scores(text)
        best = int(found.argmax())
        return best, float(found[best])
