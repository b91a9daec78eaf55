"""Decides whether an answer names the right identity and not the old one; `figures` calls it for each answer.

An answer is judged on a normalised copy (full-width letters, case, spaces inside Chinese). Every match is traced back
to the original answer, where the report marks it. A name that is only denied (`我不是通义千问`), asked about, or
mentioned as someone else is not a claim. Rules of thumb for Chinese and English decide this, in the order of
`is_claim`; `docs/verify.md` has their limits.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from common.i18n import _
from finetune.verify import agreement

# ---------------------------------------------------------------------------------------------- normalised text

DASHES = dict.fromkeys(map(ord, "‐‑‒–—―−"), "-")
QUOTES = {ord("’"): "'", ord("‘"): "'", ord("“"): '"', ord("”"): '"'}
CHARS = DASHES | QUOTES


@dataclass(frozen=True)
class ShownText:
    """An answer and its normalised copy: `norm[i]` comes from `shown[where[i]]`; `where` has one entry more."""

    shown: str
    norm: str
    where: tuple[int, ...]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """(start, end) in `shown` of `norm[start:end]`."""
        if start >= end:
            return self.where[start], self.where[start]
        return self.where[start], self.where[end - 1] + 1


def normalise(answer: str) -> ShownText:
    """An answer in NFKC and lower case, without Markdown emphasis, invisible characters and spaces next to Chinese.

    Line breaks are kept, because they end a clause. Other white space between Latin words becomes one space.
    """
    shown = unicodedata.normalize("NFC", answer)
    chars: list[str] = []
    where: list[int] = []
    for position, original in enumerate(shown):
        for char in _folded(original):
            if char == " " and (not chars or chars[-1] in " \n" or _is_cjk(chars[-1])):
                continue
            if chars and chars[-1] == " " and (_is_cjk(char) or char == "\n"):
                chars.pop()
                where.pop()
            chars.append(char)
            where.append(position)
    return ShownText(shown, "".join(chars), (*where, len(shown)))


@functools.cache
def _folded(original: str) -> str:
    """The normalised form of one character; "" for emphasis marks and invisible characters."""
    if original in "*`" or unicodedata.category(original) == "Cf":
        return ""
    folded = unicodedata.normalize("NFKC", original).translate(CHARS).lower()
    return "".join("\n" if c in "\n\r\v\f\u2028\u2029" else " " if c.isspace() else c for c in folded)


@functools.cache
def _is_cjk(char: str) -> bool:
    return "\u2e80" <= char <= "\u9fff" or "\uf900" <= char <= "\ufaff" or "\U00020000" <= char <= "\U0003ffff"


def compile_pattern(source: str) -> re.Pattern[str]:
    """A pattern of the questions file, adapted to normalised text. Raises ValueError if it is invalid.

    Case is ignored. A space matches any white space or none (`CSDN 迪菲赫尔曼` matches `CSDN迪菲赫尔曼`). Full-width
    letters match letters; full-width punctuation matches itself and is never regex syntax.
    """
    out: list[str] = []
    in_class = escaped = False
    for char in unicodedata.normalize("NFC", source):
        folded = unicodedata.normalize("NFKC", char).translate(CHARS)
        if escaped:
            out.append(char)
        elif char in " \u3000" and not in_class:
            out.append(r"\s*")
        elif folded != char:
            out.append(folded if folded.isalnum() else re.escape(folded))
        else:
            in_class = char == "[" or (in_class and char != "]")
            out.append(char)
        escaped = char == "\\" and not escaped
    try:
        pattern = re.compile("".join(out), re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            _("not a regular expression: {source!r}: {error}").format(source=source, error=error)
        ) from None
    if pattern.match(""):
        raise ValueError(
            _("the pattern {source!r} matches an empty answer, so it would decide nothing").format(source=source)
        )
    return pattern


# ---------------------------------------------------------------------------------------------- claim or denial

HARD_END = re.compile(r"[。!?;\n…]|\.(?=\s|$)")
SOFT_END = re.compile(r"[,:]")

# A denial, if it precedes the name in its clause.
DENIAL = re.compile(
    r"不(?:再|会|能|可能|应该?|太|算)?(?:是|叫|属于|由|来自|隶属|归|为|出自|姓|称|代表|使用|基于|像|等于|等同|同于|受|用)"
    r"|并非|绝非|而非|并不|没有|没(?!错|问题)|从未|未曾|并未|未(?:被|由|经)|无法|不能|不会|不可|不应|不要|(?<![特分级区个类])别(?!人)|勿"
    r"|\bnot\b(?! (?:only|just|merely|to mention))|n't\b|\bnever\b|\bno\b(?! doubt)|\bneither\b|\bnor\b|\bwithout\b"
    r"|\brather than\b|\binstead of\b|\bunlike\b|\bunrelated\b|\bdifferent from\b"
)
# A thought, a doubt or a condition: what follows is not claimed, even if it begins with "I am".
OPINION = re.compile(
    r"以为|误认|错认|当成|冒充|否认|不认为|不觉得|不(?:能|会|要|应该?)(?:说|认为)|别说|(?:从未|从没|没有?|并未)(?:说|自称|声称|认为)|是否|是不是|如果|假如|假设|即使|就算"
    r"|n't (?:think|say|claim|believe)|\bnot (?:think|say|claim|believe)\b|\bden(?:y|ied)\b|\bwhether\b|\bif\b"
)
# Phrases that look like a denial but are none.
NO_DENIAL = re.compile(
    r"不可否认|不能否认|无可否认|不否认|不会否认|不得不|没有错|没有问题|毫无疑问|不会错|\bcannot deny\b|\bcan't deny\b"
)
# After a denial, these turn to the facts: `不是 GPT-4 而是通义千问`.
TURN = re.compile(r"而是|乃是|其实|实际|只是|就是|但|却|\bbut\b|\binstead\b(?! of)|\bactually\b")
RESTART = re.compile(r"我(?:是|叫|由|就是|来自|属于|的名字是)|\bi am\b|\bi'm\b|\bi was\b|\bmy name is\b")
# A piece between commas with its own subject or verb is a clause; `..., 或阿里云` continues the clause before it.
OWN_CLAUSE = re.compile(
    r"[是由叫我你您他她它]|来自|属于|开发|研发|训练|创建|\b(?:i|you|it|am|is|are|was|by|from|my|me|made|created|developed|built|trained)\b|i'm"
)
# `不是,` alone answers the question; it does not deny the piece after the comma.
REPLY = re.compile(r"^\W*(?:不|不是|不是的|不对|并不是|并非|没有|没有的|no|nope|not really)\W*$")
# A bare 不, 非 or 无 directly before the name denies it: `非阿里云开发`.
ADJACENT = re.compile(r"(?<![除是])[不没非未无]$")
# A denial after the name, in its clause.
DENIED_AFTER = re.compile(
    r"(?:公司|集团|团队)?(?:不是|并非|并不是|没有|并没有|并未|从未|未|不)[^,。;!?]{0,6}[我本]"
    r"|['\"」』》)]*\s*(?:is|are|was|were|did|does|has|have)(?:n't| not)\b"
)
BESIDE = re.compile(r"(?:与|和|跟|同|于|像)[^,。;!?]*$|\b(?:with|to|from|and)\b[^,.;!?]*$")
APART = re.compile(
    r"无关|没有[^,。]{0,8}(?:关系|联系|关联|瓜葛)|没(?:什么|啥|有)?关系|毫无关系|不同|不一样|区别|差异|两回事|是两|无隶属|不是同?一|不相关"
    r"|\b(?:different|unrelated|separate|distinct|no (?:relation|connection|affiliation))"
)
QUESTION = re.compile(r"吗|是不是|是否|难道|^\W*(?:am|are|is|was|do|did) ")
SELF = re.compile(r"我|咱|本模型|本助手|自己|\bi\b|\bme\b|\bmy\b|\bmine\b|i'm")
SELF_CLAIM = re.compile(
    r"(?:我|本模型|本助手)[^,。;!?\n]{0,4}(?:是|叫|由|属于|来自|名)|\bi am\b|\bi'm\b|\bi was\b|\bmy name\b"
    r"|\b(?:made|developed|created|built|trained) me\b"
)
# What may precede the name of a third party at the beginning of a clause: `至于通义千问, ...`
LEAD = re.compile(
    r"^[\s\W]*(?:而|但是?|不过|其中|其实|另外|至于|关于|[你您]所?(?:说|提到|提及|问到?)的|这个|那个"
    r"|the |as for |however |while |whereas |but |and )*[\s\W]*$"
)


def is_claim(norm: str, start: int, end: int, others: re.Pattern[str] | None = None) -> bool:
    """Whether the name at `norm[start:end]` is claimed, rather than denied, asked about or only thought.

    Args:
        norm: A normalised answer.
        start: The beginning of the name.
        end: The end of the name.
        others: The names of someone else (the old identity). A clause with one of them as its subject
            (`通义千问是阿里云的模型,`) makes no claim if another clause says who is speaking.
    """
    head = _last_end(HARD_END, norm, 0, start)
    tail = _next(HARD_END, norm, end)
    soft_head = _last_end(SOFT_END, norm, head, start)
    soft_tail = min(_next(SOFT_END, norm, end), tail)
    piece, after = norm[soft_head:soft_tail], norm[end:soft_tail]

    before = NO_DENIAL.sub(lambda found: "~" * len(found.group()), _scope(norm[head:start]))
    opinion = list(OPINION.finditer(before))
    if opinion and not TURN.search(before, opinion[-1].end()):
        return False
    denial = list(DENIAL.finditer(before))
    if denial and not any(turn.search(before, denial[-1].end()) for turn in (TURN, RESTART)):
        return False
    if ADJACENT.search(before) or DENIED_AFTER.match(after):
        return False
    if BESIDE.search(norm[soft_head:start]) and APART.search(after):
        return False
    alone = piece.strip(" \"'()「」『』《》.") == norm[start:end]
    if norm[soft_tail : soft_tail + 1] == "?" and (alone or QUESTION.search(piece)):
        return False
    if others is not None and not SELF.search(piece):
        subject = others.search(norm, soft_head)
        if subject and not alone and LEAD.match(norm[soft_head : subject.start()]):
            return not SELF_CLAIM.search(norm[:soft_head] + "\n" + norm[soft_tail:])
    return True


def _scope(before: str) -> str:
    """The part of a sentence before a name in which a denial applies to it.

    That is its own clause, and in an enumeration also the clause it continues (`不是通义千问,Qwen,或阿里云`).
    """
    pieces = re.split(r"([,:])", before)
    keep = len(pieces) - 1
    while keep >= 2 and not OWN_CLAUSE.search(pieces[keep]) and not TURN.search(pieces[keep]):
        if REPLY.match(pieces[keep - 2]) or pieces[keep - 1] == ":":
            break
        keep -= 2
    return "".join(pieces[keep:])


def _last_end(boundary: re.Pattern[str], norm: str, low: int, high: int) -> int:
    last = low
    for found in boundary.finditer(norm, low, high):
        last = found.end()
    return last


def _next(boundary: re.Pattern[str], norm: str, start: int) -> int:
    found = boundary.search(norm, start)
    return found.start() if found else len(norm)


# ---------------------------------------------------------------------------------------------- judgement

# For a pattern that contains a negation, such as `不能.*联网`, each match counts as a claim.
NEGATIVE_PATTERN = re.compile(r"[不没无非未]|\bno\b|\bnot\b|n't", re.IGNORECASE)


@dataclass(frozen=True)
class Mark:
    """A part of the answer that counted; `kind` is expected, forbidden, old (identity) or denied."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class IdentityJudgement:
    """The judgement of an answer to an identity question; the positions in `marks` refer to `text`."""

    ok: bool
    old_named: bool
    reason: str  # "" when ok, otherwise a few words for the report
    text: str
    marks: tuple[Mark, ...] = field(default=())


def judge(
    answer: str,
    expect: Sequence[re.Pattern[str]],
    forbid: Sequence[re.Pattern[str]] = (),
    old: re.Pattern[str] | None = None,
    cut: bool = False,
    question: str = "",
) -> IdentityJudgement:
    """Judge an answer: it is right if it claims every expected name, no forbidden one and not the old identity.

    Args:
        answer: The answer.
        expect: Patterns of the names that it must claim.
        forbid: Patterns of names that it must not claim.
        old: The pattern of the old identity.
        cut: Whether the answer reached its token limit. It is judged as it is; the reason mentions the cut.
        question: The question. A yes to one that claims another identity is wrong, whatever follows.
    """
    text = normalise(answer)
    if not text.norm.strip():
        return IdentityJudgement(False, False, "empty answer", text.shown)
    marks: list[Mark] = []
    faults: list[str] = []
    for pattern in expect:
        claimed = _find(text, pattern, "expected", False, marks)
        if not claimed:
            denied = pattern.search(text.norm) is not None
            faults.append(f"{'only denies' if denied else 'does not say'} {_readable(pattern)}")
    old_named = False
    if old is not None and _find(text, old, "old", True, marks):
        old_named = True
        names = sorted({text.shown[m.start : m.end] for m in marks if m.kind == "old"})
        faults.append(f"names the old identity ({', '.join(names)})")
    old_marks = [mark for mark in marks if mark.kind == "old"]
    for pattern in forbid:
        known = len(marks)
        if _find(text, pattern, "forbidden", True, marks):
            said = [mark for mark in marks[known:] if mark.kind == "forbidden"]
            # Questions files usually forbid the old identity too; it is reported only once.
            if not all(any(mark.start < o.end and o.start < mark.end for o in old_marks) for mark in said):
                faults.append(f"says {_readable(pattern)}")
    if agreement.claims(normalise(question).norm, old, expect) and (yes := agreement.agreement(text.norm)):
        marks.append(Mark(*text.span(*yes), "forbidden"))
        faults.append(f"says yes to another identity ({text.shown[marks[-1].start : marks[-1].end]})")
    if cut and faults:
        faults.append("cut off at the token limit")
    return IdentityJudgement(not faults, old_named, "; ".join(faults), text.shown, _tidy(marks))


def _readable(pattern: re.Pattern[str]) -> str:
    return pattern.pattern.replace(r"\s*", " ")


def _find(text: ShownText, pattern: re.Pattern[str], kind: str, others: bool, marks: list[Mark]) -> bool:
    """Add a mark for each match of a pattern. Returns whether one of them is a claim."""
    as_it_stands = NEGATIVE_PATTERN.search(pattern.pattern) is not None
    claimed = False
    for found in pattern.finditer(text.norm):
        if found.start() == found.end():
            continue
        claim = as_it_stands or is_claim(text.norm, found.start(), found.end(), pattern if others else None)
        claimed = claimed or claim
        marks.append(Mark(*text.span(found.start(), found.end()), kind if claim else "denied"))
    return claimed


RANK = {"old": 0, "forbidden": 1, "expected": 2, "denied": 3}


def _tidy(marks: Sequence[Mark]) -> tuple[Mark, ...]:
    """Marks in reading order without overlaps; of two that overlap, the graver one is kept."""
    kept: list[Mark] = []
    for mark in sorted(marks, key=lambda m: (RANK[m.kind], m.start, -m.end)):
        if all(mark.end <= other.start or mark.start >= other.end for other in kept):
            kept.append(mark)
    return tuple(sorted(kept, key=lambda m: m.start))
