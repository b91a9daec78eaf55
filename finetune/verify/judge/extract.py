"""All facts of a text: what can be looked up and be wrong. `judge` calls it for references and answers."""

from __future__ import annotations

import functools
import re
from dataclasses import replace

from finetune.verify.judge.facts import Fact, Facts
from finetune.verify.judge.numerals import to_digits
from finetune.verify.judge.readers import READERS, quoted
from finetune.verify.judge.text import PLACE, fold


def extract(text: str) -> Facts:
    """All facts of a text. Each stretch of it belongs to one fact; list markers are none."""
    text = re.sub("[①-⑳⑴-⒇]", " ", text)
    text = re.sub(f"[{PLACE}\x00]", " ", fold(text))
    text = re.sub(r"((?:周|星期|礼拜)[一二三四五六日天][至到~-])(?=[二三四五六日天](?![次年天个点月]))", r"\1周", text)
    text = re.sub(r"\b(Dr|Mr|Mrs|Ms|Prof|approx|max|min|incl|excl)\.(?=\s)", r"\1", text)
    text = re.sub(r"次日|隔天|翌日", "第二天", re.sub(r"次年|翌年|来年", "第二年", text))
    text = re.sub(r"(\d)日(?=之?以?[内后])", r"\1天", to_digits(text))
    text = re.sub(r"(\d)\s?[x×]\s?(?=\d)", r"\1 x ", text)
    text = _LIST_MARKS.sub(" ", text)
    left = text
    found: list[Fact] = []
    for read in READERS:
        for fact in map(functools.partial(_without_stop, text), read(left)):
            found.append(replace(fact, text=text[fact.start : fact.end].strip()))
            left = left[: fact.start] + "\x00" * (fact.end - fact.start) + left[fact.end :]
    found += quoted(text)
    return Facts(text, tuple(_merged(sorted(found, key=lambda fact: (fact.start, -fact.end)), text)))


# `1. Open`, `2) Save`, `(3)`, `4、`, `Step 5:`, `第6步`
_LIST_MARKS = re.compile(
    r"(?m)^\s*(?:\(?\d{1,2}[.)、](?!\d)|[-•·])|(?<![\w.])\(?\d{1,2}\)(?=\s?\D)|(?<![\d.])\d{1,2}、(?!\d)"
    r"|(?<=[.;!?。] )\d{1,2}\.(?= [A-Z])|\bsteps? \d{1,2}\b[:.)]?|第\d{1,2}步",
    re.IGNORECASE,
)


def _without_stop(text: str, fact: Fact) -> Fact:
    """A fact less the full stop that ends its sentence (`at 6 pm. No …`)."""
    ends = text[fact.end - 1] == "." and re.match(r"\s*$|\s+[A-Z]|\n", text[fact.end :])
    return replace(fact, end=fact.end - 1) if ends else fact


_RANGE = re.compile(r"\s?(?:-|~|x|to|and|or|至|到|或|和)\s?", re.IGNORECASE)
_THEN = re.compile(r"\s?(?:and|又|零)?\s?", re.IGNORECASE)


def _merged(found: list[Fact], text: str) -> list[Fact]:
    """Facts with what their neighbours say: a range's unit goes to its first number, `1 hour 30 minutes` is one."""
    for n in range(len(found) - 2, -1, -1):
        one, two = found[n], found[n + 1]
        between = text[one.end : two.start]
        if one.kind != "number" or two.kind != "number" or not two.value[1]:
            continue
        (raw, kind, size), (other, unit, other_size) = _numbers(one), _numbers(two)
        if not kind and _RANGE.fullmatch(between):
            found[n] = replace(one, value=(raw, unit, raw * other_size / (other or 1)), optional=False)
        elif kind == unit and kind in ("time", "calendar") and size > other_size and _THEN.fullmatch(between):
            value = (size + other_size, kind, size + other_size)
            found[n : n + 2] = [replace(one, value=value, end=two.end, text=text[one.start : two.end])]
    return found


def _numbers(fact: Fact) -> tuple[float, str, float]:
    raw, unit, size = fact.value
    return float(str(raw)), str(unit), float(str(size))
