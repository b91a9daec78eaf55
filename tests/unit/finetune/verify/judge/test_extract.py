"""Each kind of fact is found, and two ways to say it are the same fact."""

from __future__ import annotations

import pytest

from finetune.verify.judge.extract import extract
from finetune.verify.judge.facts import same


def facts(text: str) -> list[tuple[str, str]]:
    return [(fact.kind, fact.text) for fact in extract(text).found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("within 30 days", [("number", "30 days")]),
        ("costs $9.90", [("number", "$9.90")]),
        ("15 % off", [("number", "15 %")]),
        ("write to a.b@c.example.", [("e-mail", "a.b@c.example")]),
        ("see https://x.example/help, please", [("URL", "https://x.example/help")]),
        ("请拨打400-820-1234。", [("phone", "400-820-1234")]),
        ("order SKU-1234", [("code", "SKU-1234")]),
        ("since v2.3", [("code", "v2.3")]),
        ("on 5 October 2026", [("date", "5 October 2026")]),
        ("每月15日发放", [("rate", "每月"), ("date", "15日")]),
        ("10日内核定", [("number", "10天")]),
        ("Mon-Fri 9 am", [("weekday", "Mon-Fri"), ("time", "9 am")]),
        ("填写《报销单》", [("quoted", "《报销单》")]),
        ("you can use PayPal", [("name", "PayPal")]),
        ("免手续费", [("free", "免手续费")]),
        ("£4.50 a month", [("number", "£4.50"), ("rate", "a month")]),
        ("1. Open it\n2. Save it", []),
        ("feel free to use one of them, 看一下", []),
    ],
)
def test_facts_of_a_text(text, found):
    assert facts(text) == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("24h", "24 hours"),
        ("24小时", "一天"),
        ("三天", "3 days"),
        ("half an hour", "30 minutes"),
        ("1 hour 30 minutes", "90 min"),
        ("1,234.50", "1234.5"),
        ("１５％", "15 percent"),
        ("百分之十五", "15%"),
        ("9 am", "09:00"),
        ("9 am", "上午九点"),
        ("晚上9点", "21:00"),
        ("noon", "中午12点"),
        ("5 October 2026", "2026-10-05"),
        ("October 5", "5th October 2026"),
        ("二〇二六年三月五日", "2026-03-05"),
        ("15号", "15日"),
        ("the 25th", "25日"),
        ("¥99", "99元"),
        ("€9.90", "EUR 9.90"),
        ("2万元", "20000元"),
        ("Mon-Fri", "weekdays"),
        ("周一至周五", "Monday to Friday"),
        ("0800 555 123", "0800555123"),
        ("+44 20 7946 0101", "20 7946 0101"),
        ("v2.3", "version 2.3"),
        ("SKU-1234", "sku 1234".replace(" ", "")),
        ("https://www.x.example/", "x.example"),
        ("18公里", "18 km"),
        ("two weeks", "14 days"),
        ("两年", "24个月"),
    ],
)
def test_two_ways_to_say_one_fact(one, other):
    (first,), (second,) = extract(one).found, extract(other).found
    assert same(first, second) and same(second, first)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("30 days", "30 hours"),
        ("$9", "€9"),
        ("9 am", "9 pm"),
        ("2 GB", "2 MB"),
        ("5 October", "5 November"),
        ("2026-03-05", "2026-05-03"),
        ("v2.3", "v3.2"),
        ("0800 555 123", "0800 555 132"),
        ("a@b.example", "c@b.example"),
        ("Monday", "Tuesday"),
        ("3天", "3个月"),
    ],
)
def test_facts_that_differ(one, other):
    (first,), (second,) = extract(one).found, extract(other).found
    assert not same(first, second)


def test_the_unit_of_a_range_holds_for_both_ends():
    low, high = extract("3 to 5 working days").found
    assert (low.value[1], high.value[1]) == ("time", "time") and low.value[2] == 3 * 86400
