"""Finds problems in the text of rows and between rows: duplicates, special tokens, a second identity.

`check` hands it one row at a time. It keeps 16 bytes per row instead of the row; 200,000 rows take some 60 MB.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from common.i18n import _
from finetune.data import placeholders
from qwen2.tools import call_text, reply_text

# The special tokens of Qwen2.5. The tokenizer does not tell them from text: <|im_end|> in a text ends the message.
SPECIAL = re.compile(
    r"<\|(?:endoftext|im_start|im_end|object_ref_start|object_ref_end|box_start|box_end|quad_start|quad_end"
    r"|vision_start|vision_end|vision_pad|image_pad|video_pad|fim_prefix|fim_middle|fim_suffix|fim_pad"
    r"|repo_name|file_sep)\|>"
)
# Invisible in editors: control characters except tab and line break, byte order marks in the text, non-characters.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
REPLACED = "\ufffd"  # a decoder's replacement for a character that it could not read
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: JSON can escape it, UTF-8 cannot encode it

UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}  # Unicode categories

NO_WORD = re.compile(r"[\W_]+")

# The maker that an answer names. Matched on `normalise`d text: lower case, no spaces between Chinese characters.
MAKER = re.compile(
    r"由(?P<zh>[^,。;!?、:\n由]{2,24}?)(?:团队|公司)?(?:所|自主|独立|持续|共同)?(?:开发|研发|训练|创建|打造|维护|推出|创造)"
    r"|\b(?:developed|created|made|trained|built|maintained) by (?P<en>[a-z][\w .&-]{1,30}?)(?=[,.;!?\n]| and | to |$)"
)
SELF = re.compile(r"我|本(?:助手|模型|机器人|系统)|\b(?:i|i'm|i am|my|me)\b")
MAJORITY = 0.6  # of the rows that name a maker; if fewer agree, the others are no outliers
ENOUGH = 5  # rows that must name a maker before there is a majority


@dataclass(frozen=True)
class Remark:
    """Something about a row. The summary counts remarks by `kind`; a training does not start if `error` is set."""

    row: int
    field: str
    kind: str
    what: str
    remedy: str
    error: bool = False


class Contents:
    """The rows of one check. `look` yields remarks on a row; `finish`, after the last row, those on all rows."""

    def __init__(self, heldout: Iterable[str] = ()) -> None:
        self.heldout = set(heldout)  # question_key of each question that verify asks
        self.rows: dict[bytes, tuple[int, bytes]] = {}  # digest of the question -> (row, digest of the answer)
        self.makers: list[tuple[int, str, str]] = []  # row, field, maker
        self.most = ""  # the maker that most answers name
        self.placeholders: Counter[str] = Counter()  # placeholder as written -> number of rows

    def look(self, number: int, messages: list[dict[str, Any]], tools: Any = None) -> Iterator[Remark]:
        """Remarks on one valid row; `messages` and `tools` are as standard_row returns them."""
        if tools:
            yield from text_remarks(number, "tools", json.dumps(tools, ensure_ascii=False))
        unfilled: dict[str, str] = {}  # placeholders -> where
        for message in messages:
            content = _as_laid_out(message)
            yield from text_remarks(number, _field(message), content)
            for name in placeholders.find(content):
                unfilled.setdefault(name, _field(message))
        if unfilled:
            yield self._unfilled(number, unfilled)
        yield from self._repeated(number, messages)
        if self.heldout:
            yield from self._heldout(number, messages)
        self._remember_maker(number, messages)

    def finish(self) -> Iterator[Remark]:
        """Remarks on answers that name a different maker from most."""
        counts = Counter(_bare(maker) for _number, _field, maker in self.makers)
        if len(self.makers) < ENOUGH:
            return
        most, _count = counts.most_common(1)[0]
        agree = [maker for _number, _field, maker in self.makers if _same_name(_bare(maker), most)]
        if len(agree) < MAJORITY * len(self.makers):
            return
        self.most = Counter(agree).most_common(1)[0][0]
        for number, field, maker in self.makers:
            if not _same_name(_bare(maker), most):
                what = _("names {maker} as its maker, where {count} of {all} answers name {most}").format(
                    maker=maker, count=len(agree), all=len(self.makers), most=self.most
                )
                yield Remark(number, field, _("another identity"), what, _("name the same maker in all answers"))

    def _unfilled(self, number: int, found: dict[str, str]) -> Remark:
        """One remark on all placeholders of a row, because remarks are counted as rows."""
        self.placeholders.update(found.keys())
        what = _("contains {names}, which was not filled in").format(names=", ".join(list(found)[:5]))
        remedy = _("fill it in, or leave it if the model should say it")
        return Remark(number, next(iter(found.values())), "placeholder", what, remedy)

    def _repeated(self, number: int, messages: list[dict[str, Any]]) -> Iterator[Remark]:
        if messages[-1].get("role") != "assistant":
            return
        question = _digest([(m.get("role"), m.get("content")) for m in messages[:-1]])
        answer = _digest([messages[-1].get("content")])
        first = self.rows.setdefault(question, (number, answer))
        if first[0] == number:
            return
        if first[1] == answer:
            what = _("is the same as row {first}").format(first=first[0])
            yield Remark(number, "", "duplicate", what, _("remove it, unless it should count twice"))
        else:
            what = _("asks the same as row {first}, with another answer").format(first=first[0])
            yield Remark(number, "", _("two answers"), what, _("keep one answer per question"))

    def _heldout(self, number: int, messages: list[dict[str, Any]]) -> Iterator[Remark]:
        for message in messages:
            if message.get("role") == "user" and question_key(str(message.get("content"))) in self.heldout:
                what = _("is a held-out question of verify, which would then prove nothing")
                yield Remark(number, "instruction", _("held-out question"), what, _("ask it in other words"))

    def _remember_maker(self, number: int, messages: list[dict[str, Any]]) -> None:
        answer = messages[-1].get("content")
        if not isinstance(answer, str) or len(answer) > 2000:
            return
        if "由" not in answer and " by " not in answer:
            return  # true of most answers, and normalising is the slowest step
        from finetune.verify.scoring import is_claim, normalise

        norm = normalise(answer).norm
        found = MAKER.search(norm)
        if found and SELF.search(norm, 0, found.start() + 1):
            name = "zh" if found["zh"] else "en"
            if is_claim(norm, *found.span(name)):
                self.makers.append((number, _field(messages[-1]), found[name].strip()))


def text_remarks(number: int, field: str, text: str) -> Iterator[Remark]:
    """Remarks on one text."""
    # --convert removes control characters, which would turn <\ufeff|im_end|> into a special token.
    if "|" in text and (found := SPECIAL.search(text) or SPECIAL.search(clean(text))):
        what = _("contains {found}, which the model reads as a control token").format(found=found[0])
        yield Remark(number, field, _("special token"), what, _("write it differently, or remove it"), error=True)
    if text.isascii() and text.isprintable():
        return
    if found := SURROGATE.search(text):
        what = _("contains half a character (\\u{ord:04x})").format(ord=ord(found[0]))
        yield Remark(number, field, _("broken character"), what, _("write the character itself"), error=True)
    if found := CONTROL.search(text):
        what = _("contains the control character U+{ord:04X}").format(ord=ord(found[0]))
        yield Remark(number, field, _("control character"), what, _("remove it; --convert does"))
    if REPLACED in text:
        what = _("contains U+FFFD: a character was lost in an earlier conversion")
        yield Remark(number, field, _("lost character"), what, _("restore the text from its source"))


def question_key(text: str) -> str:
    """A question without case, width, spaces and punctuation: two questions with one key are the same question."""
    return NO_WORD.sub("", unicodedata.normalize("NFKC", text).lower())


def blank(text: str) -> bool:
    """Whether a text contains only white space and control characters."""
    return not text.strip() or (CONTROL.search(text) is not None and not clean(text).strip())


def clean(text: str) -> str:
    """A text without control characters. Line breaks become \\n; everything else is kept."""
    return CONTROL.sub(
        "", text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    )


def printable(text: str) -> str:
    """A text as one line for a terminal or a file: invisible characters are escaped."""
    if text.isprintable():
        return text
    return "".join(repr(char)[1:-1] if unicodedata.category(char) in UNSEEN else char for char in text)


def _as_laid_out(message: dict[str, Any]) -> str:
    """A message's text as in the template, which parses the JSON of a tool call and writes it again."""
    content = message.get("content")
    if message.get("role") == "tool_call":
        return call_text(content)
    return content if isinstance(content, str) else reply_text(content)


def _field(message: dict[str, Any]) -> str:
    return {"user": "instruction", "assistant": "output"}.get(str(message.get("role")), str(message.get("role")))


def _digest(value: Any) -> bytes:
    return blake2b(repr(value).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _bare(name: str) -> str:
    return NO_WORD.sub("", name).removesuffix("团队").removesuffix("公司")


def _same_name(one: str, other: str) -> bool:
    """Whether two names mean the same maker, such as `阿里云` and `阿里云通义团队`."""
    return one in other or other in one
