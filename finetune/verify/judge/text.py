"""The text that the judge compares: folded characters, words and Chinese bigrams, clauses; all of judge/ uses it."""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata

_CHARS = {ord(char): "-" for char in "‐‑‒–—―−"} | {ord("’"): "'", ord("‘"): "'", ord("“"): '"', ord("”"): '"'}
_CHARS |= dict.fromkeys(map(ord, "*`\u200b\u200c\u200d\u2060\ufeff\u00ad"), "")
CJK = "\u3400-\u9fff\uf900-\ufaff"
PLACE = "\ue000-\uf8ff"  # one private character stands for one fact in the text that clauses are cut from
_TOKEN = re.compile(rf"[{PLACE}]|[{CJK}]+|[^\W_{CJK}]+(?:[-'][^\W\d_{CJK}]+)*")
_END = re.compile(rf"[。.!?;,、\n()\[\]]+(?=\s|$|[{CJK}{PLACE}])|[。;、\n]|(?<=[{CJK}{PLACE}])[,.!?;]|\s-+\s|--+")
_TURN = re.compile(
    r"(?<!everything )(?<!everyone )(?<!nothing )(?<!anything )(?<!all )\bbut\b"
    r"|(?=\bunless\b)|\b(?:while|whereas|although|though|otherwise)\b|但是?|而(?!且)|不过|否则",
    re.IGNORECASE,
)
_AND = re.compile(r"\b(?:and|or|plus)\b|[和及与]|或者?|另外")
_WORDS = (
    "a an the this that these those it its he she they them their there here is are was were be been being am do does "
    "did will would shall should may might must have has had of to in on at by for from with as and or if then than so "
    "we us our you your i me my please just also any all each every about per into up over under can could when which "
    "who what how where why again more most very get got let"
)
STOP_WORDS = frozenset(_WORDS.split())
STOP_CHARS = frozenset("的了呢吗吧啊哦呀您你我他她它们是在就也都会要可以能把被和与及或请到从为对给让将这那有个等之其而")


def fold(text: str) -> str:
    """NFKC, plain quotes and dashes, no Markdown emphasis, no invisible characters; the case stays."""
    folded = unicodedata.normalize("NFKC", text.translate(_CHARS)).translate(_CHARS).replace("\r", "\n")
    return re.sub(r"[^\S\n]+", " ", folded).strip()


@functools.lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """An English word without its commonest endings: enough to see that `exports` and `exported` are one."""
    for suffix in ("ings", "ing", "ies", "ied", "ed", "es", "s", "ly"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3 and not word.endswith("ss"):
            word = word[: -len(suffix)] + ("y" if suffix in ("ies", "ied") else "")
            break
    return word[:-1] if len(word) > 3 and (word[-1] == "e" or word[-1] == word[-2]) else word


def tokens(text: str) -> frozenset[str]:
    """Content words (stemmed, lower case), Chinese bigrams and fact placeholders of a text."""
    found: set[str] = set()
    for run in _TOKEN.findall(text.lower()):
        if re.match(rf"[{CJK}]", run):
            pairs = {a + b for a, b in itertools.pairwise(run) if not {a, b} <= STOP_CHARS}
            found |= pairs if len(run) > 1 else set(run) - STOP_CHARS
        elif run not in STOP_WORDS:
            found.add(stem(run.replace("-", "")))
    return frozenset(found)


def content(text: str) -> frozenset[str]:
    """Content words (stemmed) and single Chinese characters: what a text is about, in whatever order and wording."""
    found: set[str] = set()
    for run in _TOKEN.findall(text.lower()):
        if re.match(rf"[{CJK}]", run):
            found |= set(run) - STOP_CHARS
        elif run not in STOP_WORDS:
            found.add(stem(run.replace("-", "")))
    return frozenset(found)


def clauses(text: str) -> list[str]:
    """The clauses of a text whose facts are placeholders, so that no `1,500` or `a.b` is cut.

    `and` and its like cut only where a fact stands on both sides: `4 weeks at first and 3 months later`.
    """
    pieces = [part for clause in _END.split(text) for part in _TURN.split(clause)]
    out = []
    for piece in pieces:
        start = 0
        for match in _AND.finditer(piece):
            if _has_place(piece[start : match.start()]) and _has_place(piece[match.end() :]):
                out.append(piece[start : match.start()])
                start = match.end()
        out.append(piece[start:])
    return [piece.strip() for piece in out if piece.strip()]


def sentences(text: str) -> list[str]:
    """The sentences of such a text; a semicolon ends one."""
    parts = re.split(rf"[.!?;]+(?=\s|$|[{CJK}{PLACE}])|[。;\n]|(?<=[{CJK}{PLACE}])[.!?;]", text)
    return [part.strip() for part in parts if part.strip()]


def _has_place(text: str) -> bool:
    return re.search(f"[{PLACE}]", text) is not None
