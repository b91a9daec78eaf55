"""A fact of a text, and when two of them say the same; `extract` finds them, `compare` compares them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """One fact, where it stands in `Facts.text`, and its value in a form that can be compared.

    `value` by kind: number: (raw, unit's dimension or "", value in base units); date: (year, month, day), None where
    not said; time: minutes since midnight; the others: a normalised string. `vague`: a time that may be a.m. or p.m.;
    `optional`: an answer may leave it out (`one licence`); `things`: a count without a unit (`14 characters`).
    """

    kind: str
    value: tuple[object, ...]
    text: str
    start: int
    end: int
    optional: bool = False
    vague: bool = False
    things: bool = False


@dataclass(frozen=True)
class Facts:
    """A text with digits for number words, and its facts in order."""

    text: str
    found: tuple[Fact, ...]

    def marked(self, places: dict[int, str]) -> str:
        """The text with the n-th fact replaced by `places[n]`, those without a place left as they are."""
        out, at = [], 0
        for n, fact in enumerate(self.found):
            if n in places and fact.start >= at:
                out += [self.text[at : fact.start], places[n]]
                at = fact.end
        return "".join([*out, self.text[at:]])


def same(one: Fact, other: Fact) -> bool:
    """Whether two facts say the same, in whatever form: 24 hours is a day, `5 October` agrees with 2026-10-05."""
    if one.kind != other.kind:
        kinds = {one.kind: one, other.kind: other}
        return _same_across(kinds)
    if one.kind == "number":
        if (one.things and other.value[1]) or (other.things and one.value[1]):
            return False
        return _same_number(one.value, other.value)
    if one.kind == "date":
        return all(a is None or b is None or a == b for a, b in zip(one.value, other.value, strict=True)) and any(
            a is not None and a == b for a, b in zip(one.value[1:], other.value[1:], strict=True)
        )
    if one.kind == "time":
        gap = abs(_int(one) - _int(other))
        return gap == 0 or (gap == 720 and (one.vague or other.vague))
    if one.kind == "phone":
        short, long = sorted((str(one.value[0]), str(other.value[0])), key=len)
        return short == long or (len(short) >= 7 and long.endswith(short.lstrip("0")))
    return one.value == other.value


def says(answer: Fact, reference: Fact) -> bool:
    """Whether an answer's fact says as much as the reference's: `9月` does not say `9月1日`."""
    if answer.kind == reference.kind == "date" and reference.value[2] is not None and answer.value[2] is None:
        return False
    return same(answer, reference)


def _int(fact: Fact) -> int:
    return int(str(fact.value[0]))


def _same_number(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    if "MONEY" in (one[1], other[1]) and str(one[1]).isupper() and str(other[1]).isupper():
        return _close(one[2], other[2])  # cents of any currency
    if one[1] and other[1]:
        return one[1] == other[1] and (_close(one[2], other[2]) or _converted(one, other))
    return _close(one[0], other[0])


def _converted(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """Whether a measure was put into units of another system, which people round: 25 miles are about 40 km."""
    (raw, kind, size), (other_raw, _, other_size) = one, other
    if kind not in ("length", "mass", "volume", "area", "pressure"):
        return False
    raw, size, other_raw, other_size = (float(str(value)) for value in (raw, size, other_raw, other_size))
    if not raw or not other_raw:
        return False
    power = math.log10(size / raw * other_raw / other_size)
    return not math.isclose(power, round(power), abs_tol=1e-6) and math.isclose(size, other_size, rel_tol=0.02)


def _close(one: object, other: object) -> bool:
    return math.isclose(float(str(one)), float(str(other)), rel_tol=1e-6)


def _same_across(kinds: dict[str, Fact]) -> bool:
    """`25th` and the day 25 of a date, 95599 as a number and as a phone number, `2.3` and version 2.3."""
    if kinds.keys() == {"number", "date"}:
        year, month, day = kinds["date"].value
        if kinds["number"].value[1]:
            return False
        return kinds["number"].value[0] in (
            (day,) if year is None and month is None else (year,) if day is None else ()
        )
    if kinds.keys() == {"number", "time"}:  # `9-17`, `at 8`: an hour without a unit
        number, minutes = kinds["number"].value, _int(kinds["time"])
        hour = float(str(number[0])) * 60
        return not number[1] and hour in (minutes, minutes - 720)
    if kinds.keys() == {"number", "rate"}:  # `一个月迟到三次` is `每月迟到3次`
        return kinds["number"].value[1:] == kinds["rate"].value
    if kinds.keys() == {"number", "free"}:
        return kinds["number"].value[0] == 0
    if "number" in kinds and len(kinds) == 2 and kinds.keys() & {"phone", "code"}:
        (other,) = (fact for kind, fact in kinds.items() if kind != "number")
        number = kinds["number"].value
        return (other.kind == "phone" or not number[1]) and str(other.value[0]) == f"{number[0]:.15g}"
    if kinds.keys() == {"code", "quoted"} or kinds.keys() == {"name", "quoted"} or kinds.keys() == {"code", "name"}:
        one, other = kinds.values()
        return squeezed(str(one.value[0])) == squeezed(str(other.value[0]))
    return False


def squeezed(text: str) -> str:
    """Letters and digits alone, without case: how terms and codes are compared."""
    return re.sub(r"[\W_]+", "", text.casefold())
