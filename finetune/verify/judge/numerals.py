"""Numbers in words become digits: `三天` is `3天`, `thirty days` is `30 days`, `百分之十五` is `15%`; `facts` calls it.

Ordinary small words stay words: `一个`, `一下`, `one of them`, `十分`. A Chinese numeral of a single character counts
only before a unit, a measure word or a time; `one` counts only before a unit.
"""

from __future__ import annotations

import re

from finetune.verify.judge.units import MEASURES, UNIT

_HAN = "零〇一二两三四五六七八九十百千万亿廿"
_DIGITS = "零〇一二两三四五六七八九"
_COUNTED = rf"(?:{UNIT}|[{MEASURES}]|[点月日号折成倍时]|分之)"
_HAN_NUMBER = re.compile(rf"[{_HAN}]+(?:点[{_DIGITS}]+(?![十分刻{_DIGITS}]))?")
_BEFORE_NUMBER = re.compile(r"(?:第|百分之|千分之|[+×x*/=])$")
_CLOCK = re.compile(r"(?:[上下中]午|凌晨|早上?|晚上?|[至到十-])$")
_NOT_NUMBERS = re.compile(r"十分(?!钟)|一[下些点般起样定直旦共切旁致贯律如再](?!\d)|一半|[统唯不任某每同另逐]一(?!次)")

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
)
ENGLISH = {word: value for value, word in enumerate([*_ONES.split(), "eighteen", "nineteen"])}
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
ENGLISH |= {word: 10 * n for n, word in enumerate(_TENS.split(), start=2)}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
_ONE = "|".join(sorted([*ENGLISH], key=len, reverse=True))
_ENGLISH_NUMBER = re.compile(
    rf"\b(?:(?:an?|\d+(?:\.\d+)?)[ ]|)(?:{'|'.join(_SCALES)})\b(?:[ -](?:and[ ])?(?:{_ONE})\b)*"
    rf"|\b(?:{_ONE})\b(?:[ -](?:and[ ])?(?:{_ONE}|{'|'.join(_SCALES)})\b)*",
    re.IGNORECASE,
)
_ORDINALS = dict(third=3, fourth=4, fifth=5, sixth=6, seventh=7, eighth=8, ninth=9, tenth=10, eleventh=11, twelfth=12)


# `两三天` is 2-3 days, `三至五个工作日` counts from 3
_ABOUT = re.compile(
    rf"(?<![{_HAN}])(一(?=[两二])|[二两](?=三)|三(?=[四五])|四(?=五)|五(?=六)|六(?=七)|七(?=八)|八(?=九))([二两三四五六七八九])(?={_COUNTED})"
)
_FROM_TO = re.compile(rf"(?<![{_HAN}周期拜第])([{_HAN}]+)([至到~-])(?=(?:[{_HAN}]+|\d+){_COUNTED})")


def to_digits(text: str) -> str:
    """The text with its number words as digits."""
    return _chinese(_english(text))


# ------------------------------------------------------------------------------------------------------- English


def _english(text: str) -> str:
    def half(match: re.Match[str]) -> str:
        return f"{_value(match['n']) + 0.5:g} {match['unit']}"

    unit = r"(?P<unit>hours?|days?|weeks?|months?|years?)"
    text = re.sub(rf"\b(?P<n>\w+) and a half {unit}\b", half, text, flags=re.IGNORECASE)
    text = re.sub(rf"\bhalf[ -](?:an?[ ])?{unit}\b", r"0.5 \g<unit>", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(?:a )?quarter of an hour\b", "15 minutes", text, flags=re.IGNORECASE)
    text = re.sub(rf"\b(?P<n>an?|\w+) {unit} and a half\b", half, text, flags=re.IGNORECASE)
    text = re.sub(rf"\b(half|quarter|{_ONE}) past ({_ONE}|\d{{1,2}})\b", _past, text, flags=re.IGNORECASE)
    text = re.sub(rf"\bquarter to ({_ONE}|\d{{1,2}})\b", _to, text, flags=re.IGNORECASE)
    text = re.sub(r"\ban hour and a quarter\b", "75 minutes", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(?:three|3) quarters of an hour\b", "45 minutes", text, flags=re.IGNORECASE)
    text = re.sub(r"\ban hour and (?=\w+[ -]\w*\s?min)", "1 hour ", text, flags=re.IGNORECASE)
    text = re.sub(r"\ba couple of\b", "2", text, flags=re.IGNORECASE)
    text = re.sub(r"\btwice\b", "2 times", text, flags=re.IGNORECASE)
    text = re.sub(r"(?<!\bat )\bonce\b(?= (?:an?|per|every)\b|\s*[.,;!]|\s*$)", "1 times", text, flags=re.IGNORECASE)
    text = re.sub(r"\ba dozen\b", "12", text, flags=re.IGNORECASE)
    text = re.sub(r"\bsecond (?=floor|day|week|month|year|night|time|attempt)", "2nd ", text, flags=re.IGNORECASE)
    text = re.sub(r"\bfirst (?=of (?:each|every|the) month|day\b)", "1st ", text, flags=re.IGNORECASE)
    text = re.sub(
        r"\bground floor\b", "0th floor", re.sub(r"\bfirst floor\b", "1st floor", text, flags=re.I), flags=re.I
    )
    text = re.sub(
        r"\bhalf(?: of)? (?=(?:the|your|its|their) (?!(?:an? )?(?:hour|day|way)))|\bhalf (?=price)",
        "50% of ",
        text,
        flags=re.I,
    )
    for word, value in _ORDINALS.items():
        text = re.sub(rf"\b{word}\b", f"{value}{'rd' if value == 3 else 'th'}", text, flags=re.IGNORECASE)
    return _ENGLISH_NUMBER.sub(_english_number, text)


def _value(word: str) -> float:
    word = word.lower()
    if word in ("a", "an"):
        return 1
    return float(word) if word.isdigit() else ENGLISH.get(word, 0)


# `one` is a number before a unit, and as the first end of a range
_AFTER_ONE = re.compile(
    rf"(?:[ -]|\b)(?:working |business |calendar |full )?{UNIT}|(?: to | or |-)(?:{_ONE}|\d+)\b", re.IGNORECASE
)
_MINUTES = {"half": 30, "quarter": 15}


def _past(match: re.Match[str]) -> str:
    """`half past eleven` is 11:30."""
    minutes = _MINUTES.get(match[1].lower(), _value(match[1]))
    return f"{_value(match[2]):.0f}:{minutes:02.0f}"


def _to(match: re.Match[str]) -> str:
    """`quarter to nine` is 8:45."""
    return f"{(_value(match[1]) - 1) % 12 or 12:.0f}:45"


def _english_number(match: re.Match[str]) -> str:
    words = match.group().lower().replace("-", " ").split()
    after = match.string[match.end() :]
    if words == ["one"] and not _AFTER_ONE.match(after):
        return match.group()
    if len(words) == 1 and words[0] in _SCALES:  # `hundreds of`, `the thousand`: no figure
        return match.group()
    total = current = 0.0
    for word in words:
        if word in _SCALES:
            current = (current or 1) * _SCALES[word]
            if _SCALES[word] > 100:
                total, current = total + current, 0.0
        elif word not in ("and", "a", "an"):
            current += ENGLISH[word] if word in ENGLISH else float(word)
    return _shown(total + current)


# ------------------------------------------------------------------------------------------------------- Chinese


def _chinese(text: str) -> str:
    text = re.sub(rf"百分之([{_HAN}点]+|[\d.]+)", lambda m: f"{_han(m[1]) or m[1]}%", text)
    text = re.sub(rf"千分之([{_HAN}点]+|[\d.]+)", lambda m: f"{_han(m[1]) or m[1]}‰", text)
    text = re.sub(r"([一二三四五六七八九\d])成(?![员功立交本长为都分人熟])", lambda m: f"{_han(m[1]) or m[1]}0%", text)
    text = re.sub(r"([一二三四五六七八九])([一二三四五六七八九]?)折", lambda m: f"{_fold_off(m[1] + m[2])}折", text)
    text = re.sub(r"(\d)(\d)折", r"\1.\2折", text)
    text = re.sub(rf"([{_HAN}]+|\d+)个?半(?=个?(?:小时|钟头|月))", lambda m: f"{_han(m[1]) or m[1]}.5", text)
    text = re.sub(rf"([{_HAN}]+|\d+)(年|天|个月|周)半", lambda m: f"{_han(m[1]) or m[1]}.5{m[2]}", text)
    text = re.sub(rf"([{_HAN}]+|\d+)块([{_HAN}]|\d)(?=\s*(?:$|[,.;!、。]))", _yuan, text)
    text = re.sub(rf"([{_DIGITS}\d])米([{_DIGITS}\d]{{1,2}})(?![\d{_HAN}]|[{MEASURES}个米])", _metres, text)
    text = re.sub(r"半年", "6个月", re.sub(r"一半|半价", "50%", text))
    text = re.sub(r"([一两三123])刻钟", lambda m: f"{15 * int(_han(m[1]) or m[1])}分钟", text)
    text = re.sub(r"半(?=个?(?:小时|钟头|月))", "0.5", text)
    text = re.sub(r"点([一三])刻", lambda m: "点15分" if m[1] == "一" else "点45分", text)
    text = re.sub(rf"([{_HAN}]+|\d+)点半", lambda m: f"{_han(m[1]) or m[1]}点30分", text)
    text = re.sub(r"(\d+(?:\.\d+)?)[ ]?([百千万亿]+)(?![一-龥]?分之)", _scaled, text)
    text = _ABOUT.sub(lambda match: f"{_han(match[1])}-{_han(match[2])}", text)
    text = _FROM_TO.sub(lambda match: f"{_han(match[1])}{match[2]}", text)
    return _HAN_NUMBER.sub(_han_number, text)


def _yuan(match: re.Match[str]) -> str:
    """`两块五` is 2.5元."""
    whole, tenth = (_han(part) or part for part in match.groups())
    return f"{whole}.{tenth}元" if whole.isdigit() and tenth.isdigit() else match.group()


def _metres(match: re.Match[str]) -> str:
    """`一米四` is 1.4米."""
    whole, *rest = (str(_DIGIT.get(char, char)) for char in match[1] + match[2])
    return f"{whole}.{''.join(rest)}米"


def _shown(value: float) -> str:
    """A number in digits, never with an exponent."""
    return str(int(value)) if value.is_integer() else f"{value:.12g}"


def _fold_off(digits: str) -> str:
    value = "".join(str(_DIGIT[char]) for char in digits)
    return value if len(value) == 1 else f"{value[0]}.{value[1]}"


_DIGIT = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}


def _scaled(match: re.Match[str]) -> str:
    """`2万` is 20000, `1.5亿` is 150000000."""
    value = float(match[1])
    for char in match[2]:
        value *= {"百": 100, "千": 1000, "万": 10_000, "亿": 100_000_000}[char]
    return _shown(value)


def _han_number(match: re.Match[str]) -> str:
    numeral, text = match.group(), match.string
    if re.search(r"(?:周|星期|礼拜)$", text[: match.start()]) and len(numeral) == 1 and text[match.end() :][:1] != "次":
        return numeral  # a day of the week; digits could run into the time behind it
    before = text[: match.start()]
    around = text[max(0, match.start() - 1) : match.end() + 2]
    if numeral in ("万一", "一一") or (len(numeral) == 1 and _NOT_NUMBERS.search(around) and not _CLOCK.search(before)):
        return numeral
    if len(numeral) == 1:
        counted = re.match(_COUNTED, text[match.end() :], re.IGNORECASE)
        if not counted and not _BEFORE_NUMBER.search(text[: match.start()]):
            return numeral
    value = _han(numeral)
    return numeral if value is None else value


def _han(numeral: str) -> str | None:
    """The digits of a Chinese numeral; None where it is not one (`百`, `万一`)."""
    import cn2an  # which takes 0.2 s to import, and most answers have no such numeral

    try:
        value = float(cn2an.cn2an(numeral.replace("廿", "二十"), "smart"))
    except (ValueError, OverflowError):
        return None
    if numeral[0] in "零〇" and value != 0:  # an order number keeps its zeros
        return "".join(str(_DIGIT.get(char, "")) for char in numeral)
    return _shown(value)
