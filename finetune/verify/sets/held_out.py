"""Divide rows into what is trained on and what is asked, so that nothing asked is given away by a row trained on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from finetune.data.content import question_key
from finetune.verify.nearness import Nearness
from finetune.verify.sets.rows import DataRow, digest

PARAPHRASE = 0.6  # likeness of two questions from which one gives the other away
UNSEEN_SHARE = 0.4  # of the rows are asked by folds; the others are asked as learned
UNSEEN_MAX = 200
FOLDS = 2
HOLDOUT_SHARE, HOLDOUT_MAX = 0.1, 200  # of the rows, where folds cost too much


def groups(rows: Sequence[DataRow], kinds: Sequence[str]) -> list[list[int]]:
    """Rows that belong together: questions nearly the same, or the same answer where answers are not labels."""
    parent = list(range(len(rows)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    answers: dict[str, int] = {}
    near = Nearness([row.question for row in rows])
    for place, row in enumerate(rows):
        if kinds[place] != "label":
            first = answers.setdefault(question_key(row.answer), place)
            parent[root(place)] = root(first)
        for other in (near.scores(row.question) >= PARAPHRASE).nonzero()[0]:
            parent[root(int(other))] = root(place)
    found: dict[int, list[int]] = defaultdict(list)
    for place in range(len(rows)):
        found[root(place)].append(place)
    return list(found.values())


def folds(rows: Sequence[DataRow], kinds: Sequence[str]) -> list[list[int]]:
    """Rows to ask of adapters that never saw them, in FOLDS parts: adapter k is trained on all rows but part k.

    Whole groups are taken, in the order of their hashes, until UNSEEN_SHARE of the rows (UNSEEN_MAX at most) are
    together; a group that is larger than a part stays in the training.
    """
    wanted = min(UNSEEN_MAX, int(UNSEEN_SHARE * len(rows)))
    parts: list[list[int]] = [[] for _ in range(FOLDS)]
    each = wanted // FOLDS
    for group in _by_hash(rows, groups(rows, kinds)):
        part = min(parts, key=len)
        if len(part) + len(group) <= each:
            part += group
    return [sorted(part) for part in parts if part]


def holdout(rows: Sequence[DataRow], kinds: Sequence[str], count: int) -> list[int]:
    """At most `count` rows (and a tenth of all) to leave out of the training, in whole groups."""
    return apart(rows, kinds, min(count, int(HOLDOUT_SHARE * len(rows))))


def apart(rows: Sequence[DataRow], kinds: Sequence[str], count: int, others: Collection[int] = ()) -> list[int]:
    """At most `count` rows, in whole groups that have no row in `others`.

    Args:
        rows: All rows.
        kinds: How the answer of each is judged: label, text, code or json.
        count: The most rows to take.
        others: Indices of rows that are used for something else.

    Returns:
        Indices of rows, in order.
    """
    chosen: list[int] = []
    for group in _by_hash(rows, groups(rows, kinds)):
        if len(chosen) + len(group) <= count and not set(group) & set(others):
            chosen += group
    return sorted(chosen)


def _by_hash(rows: Sequence[DataRow], found: Sequence[list[int]]) -> list[list[int]]:
    return sorted(found, key=lambda group: min(digest(rows[place].key) for place in group))
