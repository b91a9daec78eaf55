"""The bars of the READMEs show the figures of docs/performance.md, all of them, and nothing else."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from bench import bars

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "performance.md").read_text(encoding="utf-8")


def test_the_picture_is_that_of_the_table():
    figures = bars.seconds(DOCUMENT)
    assert set(figures) == set(bars.BARS.values())
    for language, picture in bars.PICTURES.items():
        assert picture.read_text(encoding="utf-8") == bars.draw(figures, language), "run python bench/bars.py"


def test_lengths_are_as_the_figures():
    root = ElementTree.fromstring(bars.draw({"a": 10.0, "b.sh": 5.0}))
    widths = [float(bar.get("width", 0)) for bar in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths == sorted(widths) and widths[1] == 2 * widths[0]


def test_a_row_that_is_not_there_is_no_bar():
    assert bars.seconds("| plain peft loop | 1 | 41.6 | 218 |\n| other | 1 | 2 |") == {"peft": 41.6}
