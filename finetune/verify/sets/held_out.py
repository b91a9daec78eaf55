"""Divides rows into those that are trained on and those that are asked, so that no trained row gives an answer away."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from finetune.data.content import question_key
from finetune.verify.nearness import Nearness
from finetune.verify.sets.rows import DataRow, digest

PARAPHRASE = 0.6  # of two questions with this similarity, one gives the other away
UNSEEN_SHARE = 0.4  # of the rows are asked in folds; the others are asked as learned
UNSEEN_MAX = 200  # rows in all folds
FOLDS = 2
HOLDOUT_SHARE, HOLDOUT_MAX = 0.1, 200  # share and number of rows to leave out if folds would take too long


def groups(rows: Sequence[DataRow], kinds: Sequence[str]) -> list[list[int]]:
    """Rows that belong together: similar questions, or equal answers that are not labels.

    Args:
        rows: The rows.
        kinds: How the answer of each is judged: label, text, code or json.

    Returns:
        Indices of rows, group by group. Each row is in one group.
    """
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
    """Indices of unseen rows, in FOLDS parts. Adapter k is trained on all rows except part k.

    The parts consist of whole groups, taken in the order of their hashes, and have UNSEEN_SHARE of the rows in all, at
    most UNSEEN_MAX. A group that is larger than a part is always trained on. The parameters are those of `groups`.
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
    """Indices of rows to leave out of the training, in whole groups: at most `count`, and at most HOLDOUT_SHARE."""
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
