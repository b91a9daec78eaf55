"""Formats a cell as the spreadsheet shows it, by ECMA-376 part 1, 18.8.31; used by workbook.

The code is our own: openpyxl does not format values, and the only Python port of SheetJS's formatter is from 2020.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from functools import lru_cache
from operator import eq, ge, gt, le, lt, ne
from typing import Any

# Excel shows these in the short date format of the machine, so that 3/9/2025 here is 9/3/2025 elsewhere.
ISO = {"mm-dd-yy": "yyyy-mm-dd", "m/d/yy h:mm": "yyyy-mm-dd h:mm"}
# Formats that a Chinese Excel stores by number, without a code (zh-cn in 18.8.30); openpyxl does not know them.
_MONTH, _DAY = 'yyyy"年"m"月"', 'm"月"d"日"'
CHINESE = {
    **dict.fromkeys((27, 36, 50, 52, 57), _MONTH),
    **dict.fromkeys((28, 29, 51, 53, 54, 58), _DAY),
    **{30: "m-d-yy", 31: _MONTH + 'd"日"', 32: 'h"时"mm"分"', 33: 'h"时"mm"分"ss"秒"'},
    **{
        34: '上午/下午h"时"mm"分"',
        35: '上午/下午h"时"mm"分"ss"秒"',
        55: '上午/下午h"时"mm"分"',
        56: '上午/下午h"时"mm"分"ss"秒"',
    },
}
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
TOKEN = re.compile(
    r'"(?P<quoted>[^"]*)"?|\\(?P<escaped>.)|_(?P<space>.)|\*(?P<fill>.)|\[(?P<bracket>[^\]]*)\]'
    r"|(?P<general>General)|(?P<noon>AM/PM|A/P|上午/下午)|(?P<exp>E[+-])|(?P<date>yyyy|yyy|yy|y|e+|m{1,5}|d{1,4}|aaaa?|h{1,2}|s{1,2}|g+)"
    r"|(?P<digit>[0#?])|(?P<mark>[.,%/@])|(?P<other>.)",
    re.IGNORECASE | re.DOTALL,
)
OPERATORS = {"<": lt, "<=": le, ">": gt, ">=": ge, "=": eq, "<>": ne}
CONDITION = re.compile(r"(<=|>=|<>|<|>|=)\s*(-?[\d.]+)")
LONG = 11  # from this many digits on, General shows an exponent


@dataclass(frozen=True)
class Token:
    kind: str  # literal, date, elapsed, noon, general, digit, exp, mark
    text: str


@dataclass(frozen=True)
class Section:
    """One of the sections of a format, which semicolons separate; `condition` is (operator, number)."""

    tokens: tuple[Token, ...]
    condition: tuple[str, float] | None

    @property
    def is_date(self) -> bool:
        return any(token.kind in ("date", "elapsed", "noon") for token in self.tokens)

    def has(self, mark: str) -> bool:
        return any(token.kind == "mark" and token.text == mark for token in self.tokens)


def show(value: Any, code: str = "General", epoch: dt.datetime | None = None) -> str:
    """The text that a cell shows.

    Args:
        value: As openpyxl returns it: None, text, bool, number, date, time or duration.
        code: The cell's number format, such as `0.0%` or `yyyy/m/d`.
        epoch: The workbook's day 0, which differs between Windows and old Macs.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    sections = _parse(ISO.get(code, code))
    if isinstance(value, str):
        return _with_text(sections, value)
    is_number = isinstance(value, int | float | Decimal)
    try:
        number = _serial(value, epoch)
        section, sign = _choose(sections, number)
        if section.is_date:
            return _date(section, number if is_number else value, epoch).strip()
        return _number(section, number, sign).strip() if is_number else str(value)
    except ArithmeticError:  # no such day, or too many digits for the format: Excel shows ####
        return str(value)


def is_cut_short(value: Any, code: str) -> bool:
    """Whether General shows a whole number with an exponent, which hides its last digits."""
    whole = isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()
    return whole and code == "General" and 10**LONG <= abs(value) < 1e18


@lru_cache(maxsize=512)
def _parse(code: str) -> tuple[Section, ...]:
    """The sections of a format."""
    sections: list[Section] = []
    tokens: list[Token] = []
    condition: tuple[str, float] | None = None
    for found in TOKEN.finditer(code):
        kind, text = found.lastgroup or "other", found[found.lastgroup or 0]
        if kind == "other" and text == ";":
            sections.append(Section(tuple(tokens), condition))
            tokens, condition = [], None
        elif kind in ("quoted", "escaped", "other"):
            tokens.append(Token("literal", text))
        elif kind == "space":
            tokens.append(Token("literal", " "))
        elif kind == "bracket":
            if match := CONDITION.fullmatch(text):
                condition = match[1], float(match[2])
            elif text.startswith("$"):  # [$€-407]: a currency and a country
                tokens.append(Token("literal", text[1:].split("-")[0]))
            elif re.fullmatch(r"h+|m+|s+", text, re.IGNORECASE):
                tokens.append(Token("elapsed", text.lower()))
        elif kind == "exp" and not any(token.kind == "digit" for token in tokens):
            tokens += [Token("date", "e"), Token("literal", text[1])]
        elif kind != "fill":
            tokens.append(Token(kind, text.lower() if kind == "date" else text))
    return (*sections, Section(tuple(tokens), condition))


def _choose(sections: tuple[Section, ...], number: Decimal) -> tuple[Section, bool]:
    """The section for a number, and whether the result needs a minus sign."""
    numbers = [section for section in sections[:3] if not section.has("@")] or list(sections[:1])
    if any(section.condition for section in numbers):
        for section in numbers:
            if section.condition is None or OPERATORS[section.condition[0]](float(number), section.condition[1]):
                return section, number < 0 and section.condition is None
        return numbers[-1], number < 0
    if number < 0 and len(numbers) > 1:
        return numbers[1], False
    if number == 0 and len(numbers) > 2:
        return numbers[2], False
    return numbers[0], number < 0


def _with_text(sections: tuple[Section, ...], value: str) -> str:
    """A text value; the format may have a section for texts."""
    section = next((s for s in sections if s.has("@")), None)
    if section is None:
        return value
    parts = (value if token == Token("mark", "@") else token.text for token in section.tokens)
    return "".join(parts).strip() if any(t.kind == "literal" and t.text.strip() for t in section.tokens) else value


def _serial(value: Any, epoch: dt.datetime | None) -> Decimal:
    """A value as the number in the file; for a date, the number of days."""
    if isinstance(value, dt.date | dt.time | dt.timedelta):
        from openpyxl.utils.datetime import WINDOWS_EPOCH, to_excel

        return Decimal(repr(float(to_excel(value, epoch or WINDOWS_EPOCH))))
    return value if isinstance(value, Decimal) else Decimal(repr(value))


# ---- numbers


def _number(section: Section, number: Decimal, sign: bool) -> str:
    tokens, minus = section.tokens, "-" if sign else ""
    if any(token.kind == "general" for token in tokens) or not tokens:
        return minus + "".join(_general(abs(number)) if t.kind in ("general", "digit") else t.text for t in tokens)
    if not any(token.kind == "digit" for token in tokens):  # such as "-" for nothing
        text = "".join(token.text for token in tokens if token.kind in ("literal", "mark"))
        return text if not section.has("@") else _general(number)
    if section.has("/"):
        return minus + _fraction(tokens, abs(number))
    value = abs(number) * 100 ** sum(token == Token("mark", "%") for token in tokens)
    at = next((i for i, token in enumerate(tokens) if token.kind == "exp"), None)
    if at is not None:
        return minus + _scientific(tokens, at, value)
    text, is_zero = _fixed(tokens, value)
    return text if is_zero else minus + text


def _fixed(tokens: tuple[Token, ...], value: Decimal) -> tuple[str, bool]:
    """A value with the digit placeholders of a format, and whether all its digits are 0."""
    digits = [i for i, token in enumerate(tokens) if token.kind == "digit"]
    point = next((i for i, token in enumerate(tokens) if token == Token("mark", ".")), len(tokens))
    last = max([i for i in digits if i < point], default=-1)
    commas = [i for i, token in enumerate(tokens) if token == Token("mark", ",")]
    value /= Decimal(1000) ** sum(
        i > max(digits, default=-1) or last < i < point for i in commas
    )  # after the digits: thousands
    grouped = any(digits and digits[0] < i < last for i in commas)
    places = [tokens[i].text for i in digits if i > point]
    rounded = value.quantize(Decimal(1).scaleb(-len(places)), ROUND_HALF_UP) if value.adjusted() < 25 else value
    whole, _, part = f"{rounded:f}".partition(".")
    while part and places[len(part) - 1] != "0" and part.endswith("0"):
        part = part[:-1]
    left = [i for i in digits if i < point]
    zeros = max((len(left) - at for at, i in enumerate(left) if tokens[i].text == "0"), default=0)
    whole = whole.lstrip("0").rjust(zeros, "0")
    out = _placed(tokens[:point], left, _grouped(whole) if grouped else whole)
    if point < len(tokens):
        shown = iter(part)
        out += "." + "".join(next(shown, "") if t.kind == "digit" else _aside(t) for t in tokens[point + 1 :])
    return out, not rounded


def _placed(tokens: tuple[Token, ...], places: list[int], whole: str) -> str:
    """Digits put into their placeholders from the right; the first placeholder takes all that are left."""
    out, rest = [], whole
    literals_between = any(t.kind == "literal" for t in tokens[places[0] : places[-1]]) if places else False
    for i in range(len(tokens) - 1, -1, -1):
        token = tokens[i]
        if token.kind != "digit":
            out.append(_aside(token))
        elif i == places[0] or not literals_between:
            out.append(rest)
            rest = ""
        else:
            out.append(rest[-1:])
            rest = rest[:-1]
    return "".join(reversed(out))


def _aside(token: Token) -> str:
    """The text of a token between digits; "" for a comma, as the thousands are grouped already."""
    return "" if token == Token("mark", ",") else token.text


def _grouped(whole: str) -> str:
    head = len(whole) % 3
    return ",".join(part for part in (whole[:head], *(whole[i : i + 3] for i in range(head, len(whole), 3))) if part)


def _scientific(tokens: tuple[Token, ...], at: int, value: Decimal) -> str:
    """A value as mantissa and exponent; with three digits before the point, the exponent is a multiple of three."""
    mantissa, rest = tokens[:at], tokens[at + 1 :]
    point = next((i for i, token in enumerate(mantissa) if token == Token("mark", ".")), len(mantissa))
    step = max(1, sum(token.kind == "digit" for token in mantissa[:point]))
    exponent = value.adjusted() // step * step if value else 0
    places = sum(token.kind == "digit" for token in mantissa[point:])
    scaled = value.scaleb(-exponent).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
    if scaled >= Decimal(10) ** step:
        exponent += step
        scaled = value.scaleb(-exponent)
    width = sum(token.kind == "digit" for token in rest)
    mark = "-" if exponent < 0 else "+" if tokens[at].text.endswith("+") else ""
    tail = "".join(token.text for token in rest if token.kind == "literal")
    one_place = tuple(t for i, t in enumerate(mantissa) if t.kind != "digit" or i > point or i == point - 1)
    return f"{_fixed(one_place, scaled)[0]}E{mark}{str(abs(exponent)).rjust(width, '0')}{tail}"


def _fraction(tokens: tuple[Token, ...], value: Decimal) -> str:
    """A value as `1 1/2`."""
    at = next(i for i, token in enumerate(tokens) if token == Token("mark", "/"))
    below = "".join(t.text for t in tokens[at + 1 :] if t.kind == "digit" or t.text.isdigit())
    above = [t for t in tokens[:at] if t.kind in ("digit", "literal")]
    has_whole = any(t.kind == "literal" and t.text == " " for t in above)
    whole = int(value) if has_whole else 0
    rest = Fraction(value) - whole
    fixed = int(below) if below.isdigit() and int(below) else 0
    if fixed:
        top, bottom = round(rest * fixed), fixed
    else:
        near = rest.limit_denominator(10 ** max(1, len(below)) - 1)
        top, bottom = near.numerator, near.denominator
    if has_whole and top == bottom:
        whole, top = whole + 1, 0
    if not top:
        return str(whole)
    return f"{whole} {top}/{bottom}" if whole else f"{top}/{bottom}"


def _general(number: Decimal) -> str:
    """A number in the format General: up to eleven characters, longer ones with an exponent."""
    if not number:
        return "0"
    size = number.adjusted()
    if size >= LONG or size < -9:
        return _with_exponent(number)
    if size < -4 and len(number.normalize().as_tuple().digits) - size > 10:
        return _with_exponent(number)
    places = max(0, min(9, 9 - size)) if size >= 0 else 9
    text = f"{number.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _with_exponent(number: Decimal) -> str:
    mantissa, _, exponent = f"{number:.5E}".partition("E")
    return f"{mantissa.rstrip('0').rstrip('.')}E{exponent[0]}{exponent[1:].rjust(2, '0')}"


# ---- dates


def _date(section: Section, value: Any, epoch: dt.datetime | None) -> str:
    moment, days, micros = _moment(value, epoch)
    tokens = section.tokens
    digits = _second_digits(tokens)
    step = 10 ** (6 - min(digits, 6))
    rounded = (micros + step // 2) // step * step  # a serial number is a float: 9:30 is stored as 9:29:59.9999
    if moment is not None:
        moment += dt.timedelta(microseconds=rounded - micros)
        clock = (moment.hour * 3600 + moment.minute * 60 + moment.second) * 10**6 + moment.microsecond
    else:
        clock = rounded
    total = days * 86_400 * 10**6 + (rounded if days or moment is None else clock)
    noon = any(token.kind == "noon" for token in tokens)
    out, skip = [], 0
    for i, token in enumerate(tokens):
        if skip:
            skip -= 1
        elif token.kind == "date":
            out.append(_part(token.text, _is_minute(tokens, i), moment, clock, noon))
        elif token.kind == "elapsed":
            unit = {"h": 3600, "m": 60, "s": 1}[token.text[0]] * 10**6
            out.append(str(total // unit).rjust(len(token.text), "0"))
        elif token.kind == "noon":
            names = (
                ("上午", "下午") if token.text[0] == "上" else (("AM", "PM") if len(token.text) == 5 else ("A", "P"))
            )
            out.append(names[clock >= 43_200 * 10**6])
        elif token == Token("mark", ".") and digits and i + 1 < len(tokens) and tokens[i + 1].kind == "digit":
            out.append("." + f"{clock % 10**6:06d}"[:digits])
            skip = digits
        else:
            out.append(token.text)
    return "".join(out)


def _moment(value: Any, epoch: dt.datetime | None) -> tuple[dt.datetime | None, int, int]:
    """(date and time, whole days, microseconds of the day); the date is None for a time or a duration."""
    if isinstance(value, Decimal):
        from openpyxl.utils.datetime import WINDOWS_EPOCH, from_excel

        days, part = divmod(value, 1)
        micros = int((part * 86_400 * 10**6).to_integral_value())
        day = from_excel(int(days), epoch or WINDOWS_EPOCH) if days >= 1 else None
        return (day + dt.timedelta(microseconds=micros) if isinstance(day, dt.datetime) else None), int(days), micros
    if isinstance(value, dt.timedelta):
        return None, value.days, value.seconds * 10**6 + value.microseconds
    if isinstance(value, dt.time):
        return None, 0, (value.hour * 3600 + value.minute * 60 + value.second) * 10**6 + value.microsecond
    if not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)
    clock = value - value.replace(hour=0, minute=0, second=0, microsecond=0)
    return value, int(_serial(value, epoch)), clock.seconds * 10**6 + clock.microseconds


def _second_digits(tokens: tuple[Token, ...]) -> int:
    """The number of decimals of the seconds: the zeros of `ss.00`."""
    for i, token in enumerate(tokens):
        if token == Token("mark", ".") and i and tokens[i - 1].text.startswith("s"):
            rest = tokens[i + 1 :]
            return next((n for n, t in enumerate(rest) if t.kind != "digit"), len(rest))
    return 0


def _is_minute(tokens: tuple[Token, ...], at: int) -> bool:
    """Whether an m means minutes: it follows hours or precedes seconds."""
    if tokens[at].text not in ("m", "mm"):
        return False
    kinds = [(i, token.text[0]) for i, token in enumerate(tokens) if token.kind in ("date", "elapsed")]
    where = [i for i, _ in kinds].index(at)
    before = kinds[where - 1][1] if where else ""
    behind = kinds[where + 1][1] if where + 1 < len(kinds) else ""
    return before == "h" or behind == "s"


def _part(code: str, is_minute: bool, moment: dt.datetime | None, clock: int, noon: bool) -> str:
    """One part of a date or a time, such as `yyyy` or `mm`; `clock` is in microseconds of the day."""
    seconds = clock // 10**6
    hour = seconds // 3600
    if code[0] == "h":
        return str((hour % 12 or 12) if noon else hour).rjust(len(code), "0")
    if code[0] == "s":
        return str(seconds % 60).rjust(len(code), "0")
    if is_minute:
        return str(seconds // 60 % 60).rjust(len(code), "0")
    if code[0] == "g":
        return ""  # an era's name
    year, month, day = (moment.year, moment.month, moment.day) if moment else (1900, 1, 0)  # what Excel shows
    weekday = moment.weekday() if moment else 5
    if code[0] in "ye":
        return f"{year % 100:02d}" if code in ("y", "yy") else str(year)
    if code[0] == "a":
        return ("星期" if len(code) == 4 else "周") + "一二三四五六日"[weekday]
    names, number = (MONTHS, month) if code[0] == "m" else (DAYS, day)
    if len(code) < 3:
        return str(number).rjust(len(code), "0")
    name = names[month - 1 if code[0] == "m" else weekday]
    return name if len(code) == 4 else name[: 3 if len(code) == 3 else 1]
