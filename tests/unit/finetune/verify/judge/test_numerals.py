"""Number words become digits, ordinary small words do not."""

from __future__ import annotations

import pytest

from finetune.verify.judge.numerals import to_digits


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("三天", "3天"),
        ("二〇二六年三月五日", "2026年3月5日"),
        ("百分之十五", "15%"),
        ("两张", "2张"),
        ("半小时", "0.5小时"),
        ("一个半小时", "1.5小时"),
        ("两年半", "2.5年"),
        ("七成", "70%"),
        ("八五折", "8.5折"),
        ("2万元", "20000元"),
        ("一百五十元", "150元"),
        ("下午三点半", "下午3点30分"),
        ("三至五个工作日", "3至5个工作日"),
        ("两三天", "2-3天"),
        ("十分钟", "10分钟"),
        ("十一点二十分", "11点20分"),
        ("三点一刻", "3点15分"),
        ("利率三点二五", "利率3.25"),
        ("thirty days", "30 days"),
        ("one day", "1 day"),
        ("two hundred and fifty dollars", "250 dollars"),
        ("a two-year warranty", "a 2-year warranty"),
        ("an hour and a half", "1.5 hour"),
        ("half an hour", "0.5 hour"),
        ("half past eleven", "11:30"),
        ("quarter to nine", "8:45"),
        ("one to two days", "1 to 2 days"),
        ("twice", "2 times"),
        ("the third day", "the 3rd day"),
        ("the fourth day", "the 4th day"),
    ],
)
def test_number_words_become_digits(text, digits):
    assert to_digits(text) == digits


@pytest.mark.parametrize(
    "text",
    [
        "看一下",
        "统一处理",
        "唯一的办法",
        "十分满意",
        "万一丢了",
        "四川",
        "one of them",
        "no one knows",
        "hundreds of users",
        "周三",
    ],
)
def test_words_that_are_no_numbers_stay(text):
    assert to_digits(text) == text
