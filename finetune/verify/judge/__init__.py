"""How an answer is judged against the answers of the data: the first, simple version, until the whole judge is here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from finetune.dataset.content import question_key
from finetune.verify.nearness import Nearness

FACT = re.compile(r"[\w.+-]+@[\w.-]+|\d+(?:[:.]\d+)*")


@dataclass(frozen=True)
class Reference:
    """A row of the data."""

    question: str
    answer: str


@dataclass(frozen=True)
class Judgement:
    """What an answer is worth."""

    right: bool
    kind: str
    why: str = ""
    code: str = ""
    nearest: int | None = None
    chrf: float = 0.0
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Judge:
    """Judges answers against all references of the data."""

    def __init__(self, references: Sequence[Reference]) -> None:
        self.references = list(references)
        keys = [question_key(each.answer) for each in references]
        counts = Counter(keys)
        few = len(counts) <= max(2, len(keys) // 5) and len(counts) > 1 and max(map(len, keys)) <= 24
        self.keys = keys
        self.kinds = ["label" if few else "text" for _ in keys]
        self.near = Nearness([each.answer for each in references])

    def score(self, i: int, answer: str) -> Judgement:
        """Judge the answer to row i."""
        if self.kinds[i] == "label":
            right = question_key(answer) == self.keys[i]
            return Judgement(right, "label", "" if right else "another label", "" if right else "other_label")
        scores = self.near.scores(answer)
        best = int(scores.argmax())
        missing = sorted(set(FACT.findall(self.references[i].answer)) - set(FACT.findall(answer)))
        near = scores[i] > 0 and (scores[i] >= scores[best] or self.keys[best] == self.keys[i])
        why, code = ("", "") if near else (f"nearer to the answer of row {best + 1}", "other_row")
        if near and missing:
            why, code = f"misses {', '.join(missing)}", "missing"
        return Judgement(not why, "text", why, code, best, round(100 * float(scores[i]), 1), missing)

    def spills(self, answer: str) -> int | None:
        """The row whose text an answer repeats."""
        best, score = self.near.nearest(answer)
        return best if score > 0.7 else None

    def confusion(self, pairs: Iterable[tuple[int, str]]) -> dict[str, dict[str, int]]:
        """Reference label -> answered label -> how often."""
        found: dict[str, dict[str, int]] = {}
        for i, answer in pairs:
            said = next((r.answer for r, k in zip(self.references, self.keys, strict=True) if k == question_key(answer)), "other")
            counts = found.setdefault(self.references[i].answer, {})
            counts[said] = counts.get(said, 0) + 1
        return found
