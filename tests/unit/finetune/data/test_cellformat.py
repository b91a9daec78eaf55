"""Cells as a person sees them: the text that a spreadsheet shows for a value and a number format."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.cellformat import show

DAY = dt.datetime(2025, 3, 9)
ACCOUNTING = '_($* #,##0.00_);_($* (#,##0.00);_($* "-"??_);_(@_)'
SHOWN = [
    # General
    *[(0, "General", "0"), (3.0, "General", "3"), (-12.5, "General", "-12.5"), (0.1 + 0.2, "General", "0.3")],
    *[(1 / 3, "General", "0.333333333"), (123456.789012345, "General", "123456.789"), (True, "General", "TRUE")],
    *[(13800138000, "General", "13800138000"), (123456789012, "General", "1.23457E+11"), (1e20, "General", "1E+20")],
    *[(1e-5, "General", "0.00001"), (1.2345e-7, "General", "1.2345E-07"), (None, "General", ""), ("a", "General", "a")],
    # Numbers
    *[(0.15, "0%", "15%"), (0.1534, "0.00%", "15.34%"), (-0.155, "0%", "-16%"), (2.5, "0", "3"), (-0.3, "0", "0")],
    *[(1234, "00000", "01234"), (0, "00000", "00000"), (0.5, "#.##", ".5"), (0.5, "0.##", "0.5")],
    *[(1e6, "#,##0", "1,000,000"), (999, "#,##0", "999"), (0, "#,##0", "0")],
    *[(1234.5, "#,##0.00 €", "1,234.50 €"), (1234.5, "[$¥-804]#,##0.00", "¥1,234.50"), (1234.5, '"¥"#,##0', "¥1,235")],
    *[(1234.5, "#,##0.00\\ [$€-407]", "1,234.50 €"), (-5, "0;(0)", "(5)")],
    *[(0, '0;-0;"-"', "-"), (-3, "0;[Red]-0", "-3")],
    *[(1234.5, ACCOUNTING, "$1,234.50"), (-1234.5, ACCOUNTING, "$(1,234.50)"), (0, ACCOUNTING, "$-")],
    *[(12345, "0.00E+00", "1.23E+04"), (0.00012, "0.0E+0", "1.2E-4"), (12345, "##0.0E+0", "12.3E+3")],
    *[(1.5, "# ?/?", "1 1/2"), (0.125, "# ??/??", "1/8"), (2, "# ?/?", "2"), (0.75, "# ?/8", "6/8")],
    *[(13800138000, "000-0000-0000", "138-0013-8000"), (5551234567, "(000) 000-0000", "(555) 123-4567")],
    *[(1234567, '0.0,,"M"', "1.2M"), (1234567, "#,##0,", "1,235"), (1500, '[>=1000]0.0,"k";0', "1.5k")],
    *[(5, '[>=1000]0.0,"k";0', "5"), (5, 'General" pcs"', "5 pcs"), (0, '"Yes";"Yes";"No"', "No"), (12, "@", "12")],
    *[("abc", "@", "abc"), ("abc", '"Nr. "@', "Nr. abc"), ("abc", "0.00", "abc")],
    # Dates, times and durations
    *[(DAY, "yyyy/m/d", "2025/3/9"), (DAY, "dd.mm.yyyy", "09.03.2025"), (DAY, "d mmm yyyy", "9 Mar 2025")],
    *[(DAY, "yyyy-mm-dd h:mm:ss", "2025-03-09 0:00:00"), (DAY, 'yyyy"年"m"月"d"日"', "2025年3月9日")],
    *[(DAY, "aaaa", "星期日"), (DAY, "aaa", "周日")],
    *[(DAY, "[$-F800]dddd\\,\\ mmmm\\ dd\\,\\ yyyy", "Sunday, March 09, 2025"), (DAY, "mm-dd-yy", "2025-03-09")],
    *[(dt.date(2025, 3, 9), "yyyy/m/d", "2025/3/9"), (45725.5, "[$-804]yyyy/m/d h:mm", "2025/3/9 12:00")],
    *[(dt.time(9, 30), "h:mm:ss", "9:30:00"), (DAY.replace(hour=14, minute=5), "h:mm AM/PM", "2:05 PM")],
    *[(DAY.replace(minute=5), "hh:mm AM/PM", "12:05 AM")],
    *[(DAY.replace(hour=8, minute=5), '上午/下午h"时"mm"分"', "上午8时05分")],
    *[(dt.datetime(2025, 3, 9, 9, 29, 59, 999_999), "h:mm:ss", "9:30:00")],
    *[(dt.time(0, 1, 2, 500_000), "mm:ss.0", "01:02.5")],
    *[(dt.timedelta(hours=26, minutes=5), "[h]:mm:ss", "26:05:00"), (1.75, "[h]:mm", "42:00"), (0.75, "h:mm", "18:00")],
    *[(dt.timedelta(hours=26, minutes=5), "[mm]:ss", "1565:00")],
]  # fmt: skip


@pytest.mark.parametrize(("value", "code", "text"), SHOWN, ids=lambda value: str(value)[:20])
def test_a_cell_is_shown_as_the_spreadsheet_shows_it(value, code, text):
    assert show(value, code) == text


VALUES = st.one_of(
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.datetimes(dt.datetime(1900, 1, 1)),
    st.times(),
    st.timedeltas(dt.timedelta(days=-10_000), dt.timedelta(days=100_000)),
)
PARTS = [
    *[
        "0",
        "#",
        "?",
        "#,##0",
        ".",
        "00",
        "%",
        "E+",
        "E+00",
        "/",
        ",",
        "General",
        "@",
        ";",
        '"x"',
        "\\",
        "_",
        "*",
        "[Red]",
    ],
    *["[>5]", "[h]", "yyyy", "m", "d", "h", "s", "ss", ".0", "AM/PM", " ", "€", "年", "[", "[$¥-804]"],
]


@settings(max_examples=500, deadline=None)
@given(VALUES, st.lists(st.sampled_from(PARTS), max_size=8))
def test_no_format_is_too_odd(value, parts):
    assert isinstance(show(value, "".join(parts)), str)
