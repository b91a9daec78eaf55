"""Units and currencies that a number can carry, in Chinese and English; `facts` reads them."""

from __future__ import annotations

import re

_DAY = 86400.0
# dimension: {factor to the dimension's base unit: the names}; a month is not a number of days, so years are months
_UNITS: dict[str, dict[float, str]] = {
    "time": {
        1: "sec secs second seconds 秒 秒钟",
        60: "min mins minute minutes 分钟",
        3600: "h hr hrs hour hours 小时 个小时 钟头 个钟头 个钟",
        14 * _DAY: "fortnight fortnights",
        _DAY: "day days night nights 天 晚 夜 个工作日 工作日 个自然日 自然日 个交易日 交易日",
        7 * _DAY: "week weeks wk wks 周 星期 个星期 礼拜 个礼拜",
    },
    "calendar": {
        1: "month months 个月 月",
        3: "quarter quarters 季度 个季度",
        6: "semester semesters 学期 个学期",
        12: "year years yr yrs 年 周年 岁 周岁",
    },
    "data": {1e3: "kb kilobytes", 1e6: "mb megabytes 兆", 1e9: "gb gigabytes", 1e12: "tb terabytes"},
    "length": {
        1e-3: "mm millimetre millimetres millimeter millimeters 毫米",
        1e-2: "cm centimetre centimetres centimeter centimeters 厘米",
        1: "m metre metres meter meters 米",
        1e3: "km kilometre kilometres kilometer kilometers 公里 千米",
        1609.344: "mile miles mi 英里",
        0.3048: "ft foot feet 英尺",
        0.0254: "inch inches 英寸",
        500: "里地",
    },
    "mass": {
        1e-3: "mg 毫克",
        1: "g gram grams 克",
        1e3: "kg kgs kilo kilos kilogram kilograms 公斤 千克",
        500: "斤",
        453.592: "lb lbs",
        1e6: "ton tons tonne tonnes 吨",
    },
    "volume": {1e-3: "ml millilitre millilitres milliliter milliliters 毫升", 1: "l litre litres liter liters 升"},
    "area": {1: "m2 sqm 平方米 平米"},
    "temperature": {1: "°c 摄氏度 ° ℃"},
    "fahrenheit": {1: "°f 华氏度 fahrenheit"},
    "percent": {1: "% percent pct 个百分点", 0.1: "‰"},
    "speed": {1: "mbps", 1000: "gbps"},
    "pressure": {1: "bar", 0.0689476: "psi", 0.01: "kpa 千帕", 10: "mpa 兆帕"},
    "energy": {1: "kwh 度电 千瓦时"},
    "voltage": {1: "volt volts 伏"},
    "current": {1: "mah 毫安时"},
    "power": {1: "w watt watts 瓦", 1000: "kw 千瓦"},
    "discount": {1: "折"},
    "multiple": {1: "倍"},
    "USD": {1: "usd dollar dollars 美元 美金 us$ $"},
    "EUR": {1: "eur euro euros 欧元 €"},
    "GBP": {1: "gbp pound pounds quid 英镑 £", 0.01: "pence"},
    "CNY": {1: "cny rmb yuan 元 块 块钱 人民币 元钱 ¥", 0.1: "角 毛钱"},
    "JPY": {1: "jpy yen 日元 円"},
    "MONEY": {0.01: "cent cents"},
    "HKD": {1: "hkd 港币 港元 hk$"},
    "INR": {1: "inr rupee rupees ₹"},
    "KRW": {1: "krw won 韩元 ₩"},
    "CHF": {1: "chf franc francs 瑞士法郎 法郎"},
    "SEK": {1: "sek kronor"},
    "TWD": {1: "twd 新台币 台币"},
    "SGD": {1: "sgd 新加坡元 新币"},
    "RUB": {1: "rub rouble roubles ruble rubles 卢布"},
}
UNITS = {name: (kind, factor) for kind, by in _UNITS.items() for factor, names in by.items() for name in names.split()}
UNITS |= {"swiss francs": ("CHF", 1.0), "swiss franc": ("CHF", 1.0)}
UNITS |= {
    "degrees celsius": ("temperature", 1.0),
    "degrees": ("temperature", 1.0),
    "degrees fahrenheit": ("fahrenheit", 1.0),
}
UNITS |= {"per cent": ("percent", 1.0), "square metres": ("area", 1.0), "square meters": ("area", 1.0)}
CURRENCIES = frozenset(kind for kind in _UNITS if kind.isupper())
# Chinese measure words: a number before one is a number, but it has no dimension
MEASURES = (
    "个件次名位人台种项楼层级等号条家款份封套间张针笔门节课学分只部辆盒包瓶袋本页字句步道轮届期类路座栋室床单颗粒片杯碗"
)
WEEKDAYS = {
    name: day
    for day, names in enumerate(
        (
            "mon monday",
            "tue tues tuesday",
            "wed wednesday",
            "thu thur thurs thursday",
            "fri friday",
            "sat saturday",
            "sun sunday",
        ),
        start=1,
    )
    for name in names.split()
}
_MONTHS = (
    "jan january,feb february,mar march,apr april,may,jun june,jul july,aug august,sep sept september,"
    "oct october,nov november,dec december"
)
MONTHS = {name: n for n, names in enumerate(_MONTHS.split(","), start=1) for name in names.split()}


def _pattern() -> str:
    """Every unit as one alternation, the longest first; Latin names end at a word boundary."""
    names = sorted(UNITS, key=len, reverse=True)
    latin = [re.escape(name) for name in names if name.isascii() and name[0].isalpha()]
    other = [re.escape(name) for name in names if not (name.isascii() and name[0].isalpha())]
    return rf"(?:(?:{'|'.join(latin)})(?![a-z0-9])|{'|'.join(other)})"


UNIT = _pattern()
