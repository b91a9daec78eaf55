"""An answer that is its reference word for word but for one thing: `red` where it says `blue`. `compare` asks.

Another word in a loose answer may be a paraphrase. One that stands alone in the reference's own words is a thing
exchanged.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher

from finetune.verify.judge.polarity import denials, lead
from finetune.verify.judge.text import CJK, PLACE, STOP_CHARS, STOP_WORDS, stem
from finetune.verify.judge.units import UNITS
from finetune.verify.synonyms import pairs

ALIKE = 0.6  # share of the reference's words that the answer must have, in order
ODD = 0.1  # share of other words that an answer may have which says the same in another order
FEWEST = 3  # words or characters of a clause that says something of a thing
WIDTH = 4  # most words or characters of one thing
_MARKS = ".,;:!?。，；：！？、"
_PIECE = re.compile(rf"[{PLACE}]|[{CJK}]|[^\W{CJK}{PLACE}]+(?:[-'][^\W\d{CJK}]+)*|[{_MARKS}]")
_NO_WORD = re.compile(rf"[\d{_MARKS}{PLACE}]")
# Words that say nothing of their own, and pairs that say the same, beyond those that rewordings exchange
_POLITE = frozenset(
    map(stem, ("please", "kindly", "simply", "also", "always", "usually", "currently", "now", "directly"))
)
_SILENT = STOP_WORDS | STOP_CHARS | _POLITE | frozenset(_MARKS)
_PRONOUNS = frozenset(("it", "they", "this", "that", "these", "those", "there", "you", "we"))
_SAME = (
    "一般 通常", "必须 需要", "立即 马上", "立刻 马上", "无 没", "仅 只", "约 大概", "内 里", "填 写", "每 一", "至 到",
)  # fmt: skip
_PAIRS = {frozenset((stem(a.lower()), stem(b.lower()))) for a, b in pairs()} | {
    frozenset(pair.split()) for pair in _SAME
}


def exchanged(reference: str, answer: str, question: str) -> tuple[str, str] | None:
    """(what the reference says, what the answer says in its place); None where nothing, or more, was exchanged.

    Args:
        reference: The text that is right, with a private character for each fact.
        answer: The text that is judged, with the same character for the same fact.
        question: What the answer may repeat.
    """
    old, new, asked = _pieces(reference), _pieces(answer), set(_pieces(question))
    changes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    if sum(end - start for kind, start, end, _, _ in changes if kind == "equal") < ALIKE * len(old):
        return None
    odd = [
        each
        for each in changes
        if each[0] != "equal" and (_says(old[each[1] : each[2]]) or _says(new[each[3] : each[4]]))
    ]
    if len(odd) != 1 or odd[0][0] != "replace":
        return None
    _, a, b, c, d = odd[0]
    was, now = old[a:b], new[c:d]
    gone, come = _without_synonyms(_says(was), _says(now))
    if not gone or not come or max(len(gone), len(come)) > WIDTH or any(map(_NO_WORD.match, (*was, *now))):
        return None
    if now[0] in _PRONOUNS and set(gone) & asked:
        return None  # `it takes place` for `the concert is`
    if set(gone) & set(new) or set(come) & {*old, *asked} or set(was + now) & UNITS.keys():
        return None
    if re.match(f"[{CJK}]", gone[0]) and len(was) != len(now) and min(len(was), len(now)) < 2:
        return None  # more often another verb than another thing
    joined = [(" " if re.match(r"[a-z]", part[0]) else "").join(part) for part in (gone, come)]
    if frozenset(joined) in _PAIRS or any(denials(text) or lead(text) for text in joined):
        return None
    return _as_written(reference, a, b), _as_written(answer, c, d)


def shuffled(reference: str, answer: str) -> bool:
    """Whether an answer has the reference's words and no others, but says of one clause what belongs to another.

    `Ann feeds the hens, Ben waters the roses` against `Ben feeds the hens, Ann waters the roses`. Clauses in another
    order are no fault, nor are short ones: those of a list are in any order.
    """
    old, new = _clauses(reference), _clauses(answer)
    if len(old) != len(new):
        return False
    all_old, all_new = (sum(parts, Counter()) for parts in (old, new))
    if (all_old - all_new).total() + (all_new - all_old).total() > ODD * max(1, all_old.total()):
        return False
    odd_old, odd_new = [part for part in old if part not in new], [part for part in new if part not in old]
    return min(len(odd_old), len(odd_new)) >= 2 and all(part.total() >= FEWEST for part in (*odd_old, *odd_new))


def _clauses(text: str) -> list[Counter[str]]:
    parts = re.split(r"[,;!?。，；：！？\n]+(?!\d)|\.(?=\s|$)", text)
    return [Counter(words) for part in parts if (words := _says(_pieces(part)))]


def _without_synonyms(one: list[str], other: list[str]) -> tuple[list[str], list[str]]:
    """Both less the words that say the same: `trekking bikes` against `bicycles` leaves `trekking` alone."""
    alike = [(a, b) for a in one for b in other if frozenset((a, b)) in _PAIRS]
    gone, come = {a for a, _ in alike}, {b for _, b in alike}
    return [a for a in one if a not in gone], [b for b in other if b not in come]


def _as_written(text: str, start: int, end: int) -> str:
    """The pieces of a text from one to another, as they stand in it."""
    found = list(_PIECE.finditer(text))[start:end]
    return text[found[0].start() : found[-1].end()]


def _pieces(text: str) -> list[str]:
    return [stem(piece.lower()) if piece[0].isalpha() and piece < "\u3400" else piece for piece in _PIECE.findall(text)]


def _says(pieces: Sequence[str]) -> list[str]:
    """Those that carry meaning: no small or polite words, no punctuation."""
    return [piece for piece in pieces if piece not in _SILENT]
