"""Finds each kind of fact in a text with digits; `extract` runs the readers in the order of READERS.

A reader takes the text with what earlier readers found blanked out (NUL), and yields facts that do not overlap.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from finetune.verify.judge.facts import Fact, squeezed
from finetune.verify.judge.text import CJK
from finetune.verify.judge.units import CURRENCIES, MEASURES, MONTHS, UNIT, UNITS, WEEKDAYS


def _addresses(text: str) -> Iterator[Fact]:
    for match in re.finditer(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", text, re.ASCII):
        yield _fact("e-mail", match, match.group().casefold().rstrip("."))


def _links(text: str) -> Iterator[Fact]:
    site = (
        r"(?:https?://|www\.)[^\s\"'<>()\x00，。；、！？"
        + CJK
        + r"]+|(?<![\w@.-])(?:[a-z0-9-]+\.)+[a-z]{2,}(?:/[\w./?=&%#~-]*)?"
    )
    for match in re.finditer(site, text, re.ASCII | re.IGNORECASE):
        shown = match.group().rstrip(".,;:!?")
        if re.fullmatch(r"(?:e\.g|i\.e|a\.m|p\.m|etc)\.?", shown, re.IGNORECASE):
            continue
        if not re.match(r"https?://|www\.", shown, re.IGNORECASE) and not re.search(r"\.[a-z]{2,}(?:/|$)", shown):
            continue  # `done.Then`: two sentences, not a site
        value = re.sub(r"^(?:https?://)?(?:www\.)?", "", shown.casefold()).rstrip("/")
        yield replace(_fact("URL", match, value), end=match.start() + len(shown))


def _dates(text: str) -> Iterator[Fact]:
    month = "|".join(sorted(MONTHS, key=len, reverse=True))
    plain = "|".join(name for name in month.split("|") if name not in ("may", "mar"))  # `you may`
    patterns: list[tuple[str, int]] = [
        (r"(?P<y>\d{4})\s?年\s?(?P<m>\d{1,2})\s?月(?:份)?(?:\s?(?P<d>\d{1,2})\s?[日号])?", 0),
        (r"(?<![\d-])(?P<y>\d{4})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})(?![\d-])", 0),
        (r"(?P<m>(?<!\d)\d{1,2})\s?月(?:份)?(?:\s?(?P<d>\d{1,2})\s?[日号](?!楼))", 0),
        (rf"\b(?P<d>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? (?P<mon>{month})\b\.?(?:,? (?P<y>\d{{4}})\b)?", re.IGNORECASE),
        (rf"\b(?P<mon>{month})\b\.? (?P<d>\d{{1,2}})(?:st|nd|rd|th)?\b(?!:)(?:,? (?P<y>\d{{4}})\b)?", re.IGNORECASE),
        (r"(?<![\d/])(?P<d>\d{1,2})[/.](?P<m>\d{1,2})[/.](?P<y>\d{4})(?![\d/])", 0),
        (r"(?<![\d个])(?P<m>1[0-2]|[1-9])月(?:份|底|初)?(?!\d)", 0),
        (r"(?P<y>(?<!\d)(?:19|20)\d\d)年(?!级|期)", 0),
        (
            rf"\b(?P<mon>{plain})\b(?: (?P<y>(?:19|20)\d\d)\b)?",
            0,
        ),
        (r"(?<![\d.])(?P<d>\d{1,2})(?:日(?!元|之?以?[内后]|[前起])|号(?![楼线店室门厅院仓]))", 0),
    ]
    for pattern, flags in patterns:
        for match in re.finditer(pattern, text, flags):
            groups = match.groupdict()
            month_number = MONTHS[groups["mon"].lower()] if groups.get("mon") else _maybe(groups.get("m"))
            day = _maybe(groups.get("d"))
            if (month_number or 1) > 12 and (day or 32) <= 12:  # 10/25/2026
                month_number, day = day, month_number
            yield _fact("date", match, _maybe(groups.get("y")), month_number, day)
        text = re.sub(pattern, lambda match: "\x00" * len(match.group()), text, flags=flags)


def _maybe(digits: str | None) -> int | None:
    return int(digits) if digits else None


_EARLY, _LATE = "上午|早上|早晨|清晨|凌晨|早", "中午|下午|午后|傍晚|晚上|夜里|晚间|晚"
_AMPM = r"(?:\s?(?P<half>[ap])\.?m\b\.?|\s?(?:in the |at )(?P<part>morning|afternoon|evening|night)\b)"


def _ratios(text: str) -> Iterator[Fact]:
    """`2:1`, `2比1`: what a single digit stands behind is no time."""
    for match in re.finditer(r"(?<![\d:.])(\d{1,3})\s?(?::(?=\d(?!\d))|比)\s?(\d{1,3})(?![\d:.])", text):
        yield _fact("ratio", match, f"{match[1]}:{match[2]}")


def _times(text: str) -> Iterator[Fact]:
    patterns = [
        rf"(?:(?P<zh>{_EARLY}|{_LATE})\s?)?(?<![\d:.])(?P<h>[01]?\d|2[0-4]):(?P<min>[0-5]\d)(?::\d\d)?(?!\d){_AMPM}?",
        rf"(?:(?P<zh>{_EARLY}|{_LATE})\s?)?(?<![\d:.])(?P<h>[01]?\d|2[0-4])[点时](?!间|长|段|代|刻|候|效|建议)"
        r"(?:钟|整)?(?:(?P<min>[0-5]?\d)分?)?",
        rf"(?<![\d:.,])(?P<h>1[0-2]|0?[1-9])(?:\.(?P<min>[0-5]\d))?\s?o'?clock{_AMPM}?",
        rf"(?<![\d:.,])(?P<h>1[0-2]|0?[1-9])(?:\.(?P<min>[0-5]\d))?{_AMPM}",
        r"\b(?P<word>noon|midday|midnight)\b|(?P<han>正午|午夜|零点)",
    ]
    for pattern in patterns:
        for match in re.finditer(pattern, text, re.IGNORECASE):
            yield _time(match)
        text = re.sub(pattern, lambda match: "\x00" * len(match.group()), text, flags=re.IGNORECASE)


def _time(match: re.Match[str]) -> Fact:
    groups = match.groupdict()
    word = groups.get("word") or groups.get("han")
    if word:
        return _fact("time", match, 720 if word.lower() in ("noon", "midday", "正午") else 0)
    hour, minute = int(groups["h"]), int(groups.get("min") or 0)
    zh, english = groups.get("zh") or "", (groups.get("half") or groups.get("part") or "").lower()
    late = bool(re.fullmatch(_LATE, zh)) or english in ("p", "afternoon", "evening", "night")
    early = bool(re.fullmatch(_EARLY, zh)) or english in ("a", "morning")
    if late and hour < 12 and not (zh == "中午" and hour >= 10):
        hour += 12
    elif hour == 12 and ((early and zh != "上午") or re.match("晚|夜", zh) or english == "night"):
        hour = 0
    vague = not (late or early) and 1 <= hour <= 12 and not groups["h"].startswith("0")
    return replace(_fact("time", match, (hour * 60 + minute) % 1440), vague=vague)


_HAN_DAYS = {char: day for day, char in enumerate("一二三四五六日", start=1)} | {"天": 7}
_ALWAYS = re.compile(
    r"\b24[ -]?hours?(?= (?:reception|service|desk|support|hotline|line))"
    r"|\b24 ?(?:hours?|h|hrs?)(?: a day|/day|/7)(?:,? 7 days a week)?|\b24/7\b|\baround the clock\b"
    r"|\bday (?:or|and) night\b|\b(?:at )?any ?time(?: of day)?\b"
    r"|7 ?[x*×] ?24(?:小时)?|24小时(?=在线|服务|接听|营业|开放|客服|热线|电话|报修|急诊|不间断|都|有人|全天|值班)"
    r"|全天候?|任何时[间候]|昼夜",
    re.IGNORECASE,
)


def _always(text: str) -> Iterator[Fact]:
    for match in _ALWAYS.finditer(text):
        yield replace(_fact("always", match, True), optional=True)


_DAY = (
    rf"(?:\b(?P<en>{'|'.join(sorted(WEEKDAYS, key=len, reverse=True))})s?\b\.?"
    r"|(?:周|星期|礼拜)(?P<zh>[1-6一二三四五六日天末])(?![次年个天])|(?P<end>\bweekends?\b|双休日)|(?P<work>\bweekdays?\b|(?<![\d个])工作日))"
)


def _weekdays(text: str) -> Iterator[Fact]:
    """Days of the week, as the set of days meant: `Mon-Fri` is what `weekdays` is."""
    found: list[tuple[re.Match[str], tuple[int, ...]]] = []
    for match in re.finditer(_DAY, text, re.IGNORECASE):
        if match["en"] in ("sun", "sat", "mon", "wed"):
            continue  # `the sun`, `sat down`
        if match["en"]:
            days: tuple[int, ...] = (WEEKDAYS[match["en"].lower()],)
        elif match["end"] or match["zh"] == "末":
            days = (6, 7)
        else:
            days = (1, 2, 3, 4, 5) if match["work"] else (_HAN_DAYS.get(match["zh"]) or int(match["zh"]),)
        found.append((match, days))
    skip = False
    for n, (match, days) in enumerate(found):
        if skip:
            skip = False
            continue
        fact = _fact("weekday", match, *days)
        if n + 1 < len(found):
            after, (last, *rest) = found[n + 1][0], found[n + 1][1]
            ranged = re.fullmatch(
                r"\s?(?:-|~|to|through|until|至|到)\s?", text[match.end() : after.start()], re.IGNORECASE
            )
            if ranged and len(days) == 1 and not rest:
                skip = True
                week = [(days[0] - 1 + step) % 7 + 1 for step in range((last - days[0]) % 7 + 1)]
                fact = replace(fact, value=tuple(sorted(week)), end=after.end())
        yield fact


def _phones(text: str) -> Iterator[Fact]:
    for match in re.finditer(r"(?<![\w.,-])\+?\(?\d[\d ()-]{5,}\d(?![\w]|[.,]\d)", text, re.ASCII):
        digits = re.sub(r"\D", "", match.group())
        parts = re.findall(r"\d+", match.group())
        if (
            not 7 <= len(digits) <= 16
            or (len(parts) == 1 and len(digits) < 7)
            or re.match(rf"\s?{UNIT}", text[match.end() :], re.IGNORECASE)
        ):
            continue
        yield _fact("phone", match, digits)


_FREE = re.compile(
    r"\bfree of charge\b|(?<!-)(?<!feel )\bfree\b"
    r"(?! (?:disk|space|storage|memory|time|to\b|from|spaces?|seats?|up\b(?! to)))"
    r"|\b(?:no|without|at no) (?:(?:extra|additional) )?(?:charge|fees?|costs?|tuition)\b|\bcomplimentary\b|\bgratis\b"
    r"|\b(?:pays?|costs?|charged?) nothing\b|(?:n't|\bnot) (?:cost|pay|charge) (?:\w+ )?anything\b"
    r"|\b(?:not|never) charged\b|\bwaived\b"
    r"|\b(?:do|does|need|have|has)(?:n't| not) (?:have to |need to )?pay\b"
    r"(?! (?:the|more|a|in|by|with|after|until)\b)"
    r"|免(?:收|除)?[^,。;\s]{0,4}?费|包邮|不[用需]?(?:收|付|交|花)[^,。;\s]{0,4}?[费钱]|不扣[款钱费]?(?!税)|不要钱|无需付费|免[单收]|白送",
    re.IGNORECASE,
)


def _free(text: str) -> Iterator[Fact]:
    for match in _FREE.finditer(text):
        if "\x00" not in match.group():
            yield _fact("free", match, True)


_RATE = re.compile(
    r"\b(?:per|an?|each|every)[ ](?:\w+ and )?"
    r"(?P<en>(?:second|minute|hour|day|night|week|month|quarter|semester|year))\b"
    rf"|/\s?(?P<slash>{UNIT})|[每按]个?(?P<zh>{UNIT})"
    r"|(?<!\d)1(?P<one>个?(?:[年天晚周月]|小时|星期))(?=[^,。;内后前\d]{0,8}[\d.]+[元块]|收)"
    r"|(?P<word>\b(?:7 days a week|daily|monthly|yearly|annually|weekly|annual)\b|年利率|年费|月费|月租|日租)",
    re.IGNORECASE,
)
_RATE_WORDS = {"7 days a week": "day"} | dict(
    daily="day", weekly="week", monthly="month", yearly="year", annually="year", annual="year"
)
_RATE_WORDS |= {"年利率": "year", "年费": "year", "月费": "month", "月租": "month", "日租": "day"}


def _lasts(text: str, match: re.Match[str]) -> bool:
    """Whether `an hour` says how long something takes, not what an amount is for: no amount stands before it."""
    if _ARTICLE.search(text[max(0, match.start() - 16) : match.end()]):
        return True
    clause = re.split(r"[,;]|[.!?]\s", text[: match.start()])[-1]
    return re.match(r"an? ", match.group(), re.I) is not None and not re.search(
        r"[\d\x00]|\b(?:once|how)\b", clause, re.I
    )


NO_RATES = CURRENCIES | {"percent", "discount", "multiple"}


def _rates(text: str) -> Iterator[Fact]:
    """What an amount is for: `a month`, `每小时`. Never demanded; another one contradicts."""
    for match in _RATE.finditer(text):
        unit = next(filter(None, match.groups())).lower()
        kind, factor = UNITS[_RATE_WORDS.get(unit, unit)]
        if kind not in NO_RATES and not _lasts(text, match):
            yield replace(_fact("rate", match, kind, factor), optional=True)


_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?:\.\d{3})+,\d{2}|\d+(?:\.\d+)?"
_LATIN_CURRENCY = r"(?:US\$|HK\$|[$€£¥₹₩]|(?:USD|EUR|GBP|CNY|RMB|JPY|HKD)\b)"
_FILLER = r"(?:(?:working|business|calendar|full|whole|consecutive|paid|extra|more)[ -])?"
_QUANTITY = re.compile(
    rf"(?P<before>{_LATIN_CURRENCY}\s?)?(?<![A-Za-z]-)(?<![A-Za-z0-9_]\.)(?<![A-Za-z0-9_])(?P<n>{_NUMBER})(?![.,]?\d)"
    rf"(?:\s?(?P<scale>k|thousand|million|bn|billion)(?![a-z0-9]))?"
    rf"(?:(?P<th>st|nd|rd|th)(?![a-z])(?P<ordinal>))?"
    rf"(?:(?:\s|[ ]?-[ ]?)?{_FILLER}(?P<unit>{UNIT})|(?![A-Za-z0-9_]|[-_][A-Za-z]+\d))",
    re.IGNORECASE,
)
_SCALE = {"k": 1e3, "thousand": 1e3, "million": 1e6, "bn": 1e9, "billion": 1e9}
_ARTICLE = re.compile(
    r"\b(?:within|in|for|takes?|lasts?|after|by|next|every|about|around|up to|than|least|most|roughly)"
    r"(?: about| up to)? an?[ ](?:week|month|year|hour|day|minute|fortnight)\b(?! later)",
    re.IGNORECASE,
)
_ONE = re.compile(r"\ban?[ ](?P<unit>week|month|year|hour|day|minute|fortnight)\b(?! later)", re.IGNORECASE)


# `two ways to do it`, `两种方式`: an answer may count what it lists
_COUNTED = re.compile(
    r"\s?(?:ways?|options?|steps?|things|types|kinds|methods|possibilities)\b|[种步类]|个?方面", re.IGNORECASE
)


# `3次`, `14 characters`: a count of things, not a number of days
_THINGS = re.compile(rf"[{MEASURES}]| [a-z]{{3,}}s\b")


def _quantities(text: str) -> Iterator[Fact]:
    for match in _ONE.finditer(text):  # `within a week` is 7 days; `£300 a day` is a rate, and gone by now
        kind, factor = UNITS[match["unit"].lower()]
        yield replace(_fact("number", match, 1.0, kind, factor), start=match.start("unit"))
    for match in _QUANTITY.finditer(text):
        value = _to_float(match["n"]) * _SCALE.get((match["scale"] or "").lower(), 1)
        unit = (match["unit"] or "").lower()
        if match["unit"] in ("G", "M") or text[: match.start()].endswith("第"):  # 5G: no weight; 第2天: no duration
            unit = ""
        before = (match["before"] or "").strip().lower()
        kind, factor = UNITS.get(before or unit, ("", 1.0))
        end = match.end()
        if before and unit and UNITS[unit][0] not in CURRENCIES:
            end = match.start("unit")
        counted = (match["n"] == "1" and not kind and not match["th"]) or _COUNTED.match(
            text[match.end() :]
        ) is not None
        things = not kind and _THINGS.match(text[match.end() :]) is not None
        fact = _fact("number", match, value, kind, value * factor)
        yield replace(fact, end=end, optional=counted, things=things)


def _to_float(digits: str) -> float:
    if re.fullmatch(r"\d{1,3}(?:\.\d{3})+,\d{2}", digits):
        return float(digits.replace(".", "").replace(",", "."))
    return float(digits.replace(",", ""))


def _codes(text: str) -> Iterator[Fact]:
    version = (
        r"\b(?:v|ver\.?|version|release|版本号?)\s?(?P<v>\d+(?:\.\d+)+)|(?<![\w.])(?P<w>\d+(?:\.\d+){2,})(?![\w.])"
    )
    for match in re.finditer(version, text, re.IGNORECASE):
        yield _fact("code", match, match["v"] or match["w"])
    text = re.sub(version, lambda match: "\x00" * len(match.group()), text, flags=re.IGNORECASE)
    both = r"(?=[A-Za-z0-9_-]*\d)(?=[A-Za-z0-9_-]*[A-Za-z])"  # a letter and a digit
    code = rf"(?<![\w.@/]){both}[A-Za-z0-9][A-Za-z0-9_-]*[A-Za-z0-9](?:\.\d+)*(?![\w@])"
    for match in re.finditer(code, text, re.ASCII):
        shown = match.group().casefold()
        if not re.fullmatch(rf"\d+(?:st|nd|rd|th|k)|\d+-?{UNIT}|\d+(?:-[a-z]+)+", shown):
            yield _fact("code", match, re.sub(r"[-_]", "", shown))


_QUOTES = re.compile(
    r"\"([^\"\n]{1,60})\"|「([^」\n]{1,60})」|『([^』\n]{1,60})』|《([^》\n]{1,60})》|【([^】\n]{1,60})】|“([^”\n]{1,60})”"
)


def quoted(text: str) -> Iterator[Fact]:
    for match in _QUOTES.finditer(text):
        term = squeezed("".join(filter(None, match.groups())))
        if term:
            yield _fact("quoted", match, term)


_NAME = re.compile(r"(?<![\w.@/-])(?:[A-Z][a-z]+[A-Z]\w*|[A-Z]{2,}|[A-Z][a-z]+|[a-z]+[A-Z]+\w*)(?![\w@])", re.ASCII)
_WORDS = "i yes no ok am pm id faq ai it q a dr mr ms mrs the"
_NO_NAMES = frozenset(_WORDS.split())


def _names(text: str) -> Iterator[Fact]:
    """Capitalised words in the middle of a clause, and those in mixed case or capitals anywhere: Visa, PayPal, JSON."""
    for match in _NAME.finditer(text):
        word, before = match.group(), text[: match.start()]
        opens = re.search(r"(?:^|(?<!\bDr)(?<!\bMr)(?<!\bMrs)(?<!\bMs)[.!?:;\n>\"(]|\x00)\s*$", before) is not None
        plain = re.fullmatch(r"[A-Z][a-z]+", word) is not None
        if word.casefold() in _NO_NAMES or (plain and opens):
            continue
        # `The Easy Saver pays …`: what the sentence is about need not be named again
        subject = re.fullmatch(
            r"(?:\s*(?:the|our|your|with|in|for|a|an|[A-Z]\w*))*\s*", re.split(r"(?<!Dr|Mr|Ms)[.!?\n。；;]", before)[-1]
        )
        yield replace(_fact("name", match, word.casefold()), optional=subject is not None)


READERS: tuple[Callable[[str], Iterator[Fact]], ...] = (
    _addresses, _links, _always, _dates, _ratios, _times, _weekdays, _codes, _phones, _free, _rates, _quantities,
    _names,
)  # fmt: skip


def _fact(kind: str, match: re.Match[str], *value: object) -> Fact:
    return Fact(kind, value, match.group(), match.start(), match.end())
