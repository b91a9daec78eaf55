"""Decides whether an answer is right against its own row's reference, for any dataset; verify's sets call it."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from finetune.verify.judge import structured
from finetune.verify.judge.compare import Difference, difference
from finetune.verify.judge.extract import extract
from finetune.verify.judge.facts import Facts, says
from finetune.verify.judge.nearest import Nearest
from finetune.verify.judge.polarity import lead, plain, refuses
from finetune.verify.judge.text import CJK, content, sentences

OTHER = "(other)"  # what a confusion table calls an answer that is none of the labels
SPILL = 50.0  # chrF from which an answer out of scope repeats a row
SHORT = 8  # characters: a shorter reference is like too many answers
# How much nearer than its own reference another row's may be: an answer that holds facts of its own may be short
LEAD_WITH_FACTS, LEAD = 12.0, 1.0
# Of a reference without facts: the share of its content words, and the chrF, of which an answer must reach one
COVERED, COVERED_HAN, LIKE = 0.34, 0.45, 40.0
ADDED = 0.6  # share of the words of a sentence that another row says as well
PART, PART_LIKE = 0.55, 60.0  # the same for an answer that has no words but the reference's


@dataclass(frozen=True)
class Reference:
    """A row's question (the last user turn) and the answer that is right (the last assistant turn)."""

    question: str
    answer: str


@dataclass(frozen=True)
class Judgement:
    """Whether an answer is right, and what decided it.

    `code` is a word for programs: ok, empty, label, parse, value, missing, wrong, opposite, swapped, exchanged,
    refusal, nearer, off. `why` says it for people. `nearest`: the row whose reference the answer is nearest to (text
    only). `missing`: facts of the reference that the answer lacks; `wrong`: facts of the answer that contradict it.
    """

    right: bool
    kind: str
    why: str
    code: str
    nearest: int | None = None
    chrf: float = 0.0
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Judge:
    """The judge of one dataset, built once over all its rows. `kinds[i]` is label, json, code or text.

    >>> judge = Judge([Reference("When do you open?", "At 9 am."), Reference("When do you close?", "At 5 pm.")])
    >>> judge.score(0, "We open at 09:00.").right
    True
    """

    def __init__(self, references: Sequence[Reference]) -> None:
        self.references = list(references)
        answers = [reference.answer for reference in self.references]
        labelled = structured.labels(answers)
        self.kinds = [_kind(answer, row in labelled) for row, answer in enumerate(answers)]
        self.labels = sorted({structured.label(answers[row]) for row in labelled if self.kinds[row] == "label"})
        self._nearest = Nearest(answers)
        self._whole: dict[str, int] = {}
        for row, text in enumerate(answers):
            self._whole.setdefault(structured.label(text), row)
        self._facts = functools.lru_cache(maxsize=None)(lambda row: extract(self.references[row].answer))
        self._asked = functools.lru_cache(maxsize=None)(lambda row: extract(self.references[row].question))

    def score(self, row: int, answer: str) -> Judgement:
        """Judge an answer against the reference of its own row."""
        kind = self.kinds[row]
        if not answer.strip():
            return Judgement(False, kind, "empty answer", "empty")
        return {"label": self._label, "json": self._json, "code": self._code, "text": self._text}[kind](row, answer)

    def confusion(self, pairs: Iterable[tuple[int, str]]) -> dict[str, dict[str, int]]:
        """How often each label was answered with each; `pairs` are (row, answer), rows of other kinds are left out."""
        table: dict[str, Counter[str]] = {}
        for row, answer in pairs:
            if self.kinds[row] == "label":
                said = structured.label(answer)
                wanted = structured.label(self.references[row].answer)
                table.setdefault(wanted, Counter())[said if said in self.labels else OTHER] += 1
        return {wanted: dict(table[wanted]) for wanted in sorted(table)}

    def spills(self, answer: str) -> int | None:
        """The row whose text an answer out of scope repeats; None if it repeats none.

        A label, or a reference of a few characters, counts only if it is the whole answer.
        """
        said = structured.label(answer)
        if not said:
            return None
        if said in self._whole:
            return self._whole[said]
        for score, row in self._nearest.candidates(answer):
            if score >= SPILL and self.kinds[row] != "label" and len(self._nearest.texts[row]) >= SHORT:
                return row
        return None

    def repeats(self, row: int, asked: str, answer: str) -> int | None:
        """The row whose answer is given to a near miss, a question like `row`'s that no row answers; None if none is.

        An answer that declines, or denies where the row does not, gives nothing away. A row that has facts is repeated
        by an answer with all of them but those that the question names, in whatever words; one without, by its text.
        """
        if not answer.strip() or refuses(answer):
            return None
        said, question = extract(answer), extract(asked)  # what both questions name is not what is given away
        rows = [other for score, other in self._nearest.candidates(answer, own=row) if score >= SPILL or other == row]
        for other in sorted(rows, key=lambda other: other != row):
            reference = self._facts(other)
            if lead(said.text) == -1 and lead(reference.text) != -1:
                continue
            named = Facts(question.text, (*question.found, *self._asked(other).found))
            found = difference(reference, said, named)
            if found.required and not found.missing and not found.opposite:
                return other
            if not found.required and self._nearest.score(answer, other) >= SPILL and not found.opposite:
                return other
        return None

    # --------------------------------------------------------------------------------------------------- by kind

    def _label(self, row: int, answer: str) -> Judgement:
        wanted, said = structured.label(self.references[row].answer), structured.label(answer)
        if said == wanted:
            return Judgement(True, "label", f"label {wanted}", "ok")
        shown = said[:40] or "nothing"
        return Judgement(False, "label", f"label {shown}, not {wanted}", "label", missing=[wanted], wrong=[shown])

    def _json(self, row: int, answer: str) -> Judgement:
        wanted = structured.parsed_json(self.references[row].answer)
        try:
            got = structured.parsed_json(answer, anywhere=True)
        except (ValueError, RecursionError):
            return Judgement(False, "json", "not valid JSON", "parse", chrf=self._nearest.score(answer, row))
        missing, wrong = structured.json_differences(wanted, got)
        if missing or wrong:
            why = "; ".join([*(f"{key} is missing" for key in missing), *(f"{value} differs" for value in wrong)])
            return Judgement(False, "json", why[:200], "value", None, self._nearest.score(answer, row), missing, wrong)
        return Judgement(True, "json", "same keys and values", "ok", chrf=self._nearest.score(answer, row))

    def _code(self, row: int, answer: str) -> Judgement:
        score = self._nearest.score(answer, row)
        reference = self.references[row].answer
        wanted = structured.python(reference)
        if wanted is None:
            right = structured.code_tokens(reference) == structured.code_tokens(answer)
            return Judgement(
                right, "code", f"{'same' if right else 'other'} code", "ok" if right else "value", chrf=score
            )
        got = structured.python(answer)
        if got is None:
            return Judgement(False, "code", "not valid Python", "parse", chrf=score)
        if got == wanted:
            return Judgement(True, "code", "same program", "ok", chrf=score)
        return Judgement(False, "code", "another program", "value", chrf=score)

    def _text(self, row: int, answer: str) -> Judgement:
        reference, asked, said = self._facts(row), self._asked(row), extract(answer)
        found = difference(reference, said, asked)
        if found.wrong and (shorter := self._without_additions(row, said.text)) != said.text:
            without = difference(reference, extract(shorter), asked)
            if not without.wrong:
                found, said, answer = without, extract(shorter), shorter
        ranked = self._nearest.candidates(answer, own=row)
        own = next(score for score, other in ranked if other == row)
        rivals = [(score, other) for score, other in ranked if other != row and not self._nearest.alike(row, other)]
        rival = rivals[0] if rivals else (0.0, row)
        nearest = rival[1] if rival[0] > own else row
        code, why = _verdict(found, reference, asked, said, answer, own, rival)
        missing, wrong = found.missing, found.wrong
        if code == "missing":
            missing = found.missing or [found.dropped]
        if code == "exchanged" and found.exchanged:
            missing, wrong = [found.exchanged[0]], [found.exchanged[1]]
        return Judgement(code == "ok", "text", why, code, nearest, own, missing, wrong)

    def _without_additions(self, row: int, answer: str) -> str:
        """An answer less what it adds, after its first sentence, that another row says in nearly the same words."""
        first, *more = sentences(answer)
        return "\n".join([first, *(sentence for sentence in more if not self._says_other(row, sentence))])

    def _says_other(self, row: int, sentence: str) -> bool:
        facts, words = extract(sentence).found, content(sentence)
        return any(
            len(words & content(its.text)) >= ADDED * len(words)
            and all(any(says(own, fact) for own in its.found) for fact in facts)
            for its in (self._facts(other) for _, other in self._nearest.candidates(sentence) if other != row)
        )


def _kind(answer: str, labelled: bool) -> str:
    try:
        structured.parsed_json(answer)
        return "json"
    except (ValueError, RecursionError):
        pass
    if labelled:
        return "label"
    return "code" if structured.is_code(answer) else "text"


def _verdict(
    found: Difference, reference: Facts, asked: Facts, said: Facts, answer: str, own: float, rival: tuple[float, int]
) -> tuple[str, str]:
    """(code, why) of a text answer: the first thing that is wrong with it, or ok."""
    if found.wrong:
        lacks = f"; lacks {', '.join(found.missing)}" if found.missing else ""
        return "wrong", f"says {', '.join(found.wrong)}{lacks}"
    if found.missing:
        return "missing", f"lacks {', '.join(found.missing)}"
    if found.dropped:
        return "missing", f"lacks {found.dropped}"
    if found.opposite:
        return "opposite", f"says the opposite: {found.opposite.strip()}"
    if found.swapped:
        return "swapped", "exchanges what belongs to two things"
    if found.exchanged:
        return "exchanged", f"says {found.exchanged[1]} where the reference says {found.exchanged[0]}"
    held = found.required > 0
    if refuses(answer) and not refuses(reference.text) and not held:
        return "refusal", "declines to answer"
    if rival[0] > own + (LEAD_WITH_FACTS if held else LEAD):
        return "nearer", f"nearer to the answer of row {rival[1] + 1}"
    if not held and not _covers(reference, asked, said, own):
        return "off", "does not say what the reference says"
    return "ok", "holds the facts of the reference" if held else "says what the reference says"


def _covers(reference: Facts, asked: Facts, said: Facts, own: float) -> bool:
    """Whether an answer to a reference without facts says enough of it; a bare yes or no may be enough."""
    first = lead(reference.text)
    words = content(plain(said.text))
    if first and first == lead(said.text) and len(words - content(asked.text)) <= 2:
        return True  # `Yes, we do treat rabbits.`
    wanted, new = content(reference.text), content(reference.text) - content(asked.text)
    share: float = len(wanted & words) / max(1, len(wanted))
    if len(new) >= 2:  # what the question says need not be repeated
        share = max(share, len(new & words) / len(new))
    if len(wanted & words) >= 0.8 * len(words):  # part of the reference and nothing else: the rest is missing
        return share >= PART or own >= PART_LIKE
    return share >= (COVERED_HAN if re.search(f"[{CJK}]", reference.text) else COVERED) or own >= LIKE
