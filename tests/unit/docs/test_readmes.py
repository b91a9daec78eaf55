"""README.md and README.zh-CN.md say the same: structure, code, links, verbs, and every number of their tables."""

from __future__ import annotations

import re

import pytest

from tests.unit.docs.markdown import Document, uncommented
from tests.unit.docs.test_documents import ROOT, verbs

ENGLISH, CHINESE = Document(ROOT / "README.md"), Document(ROOT / "README.zh-CN.md")


def neutral(target: str) -> str:
    """A link without its language: to the other README, and to documents and pictures in its own."""
    return target.replace(".zh-CN.", ".")


def numbers(cells: list[str]) -> list[str]:
    """The numbers of a table's row, in any order: a sentence may be built the other way round."""
    return sorted(re.findall(r"\d+(?:[.,:-]\d+)*", " ".join(cells)))


def test_same_headings():
    assert [level for level, _ in ENGLISH.headings()] == [level for level, _ in CHINESE.headings()]


def test_same_code_blocks():
    """Commands are the same; a screen is in the reader's language, with the same numbers."""

    def blocks(readme: Document) -> list[tuple[str, object]]:
        fences = readme.fences()
        return [(kind, numbers([code]) if kind == "text" else uncommented(code)) for kind, code in fences]

    assert blocks(ENGLISH) == blocks(CHINESE)


def test_above_the_fold_is_one_screen():
    """What it is, how it compares, the commands and what one sees stand in the first 50 lines."""
    for readme in (ENGLISH, CHINESE):
        head = "\n".join(readme.text.splitlines()[:50])
        for wanted in (
            "images/contenders.",
            "git clone",
            "make finetune",
            "make chat",
            "PASS",
            "images/verify-report.",
        ):
            assert wanted in head, (readme.path.name, wanted)


def test_same_links():
    first, second = (sorted(map(neutral, readme.links())) for readme in (ENGLISH, CHINESE))
    assert first == second


def test_same_make_verbs():
    assert verbs(ENGLISH) == verbs(CHINESE) != set()


def test_same_tables_with_the_same_numbers():
    first, second = ENGLISH.tables(), CHINESE.tables()
    assert [len(table) for table in first] == [len(table) for table in second]
    for table, translated in zip(first, second, strict=True):
        for row, same in zip(table, translated, strict=True):
            assert len(row) == len(same)
            assert numbers(row) == numbers(same), f"{row[0]} / {same[0]}"


def test_same_scripts_and_settings():
    """Commands and variables in inline code; a placeholder (RUN, 运行目录) may be translated."""

    def names(readme: Document) -> set[str]:
        return set(re.findall(r"\b[\w-]+\.(?:sh|yaml|json|html|csv|xlsx)\b|\b[A-Z]{2,}(?:_[A-Z]+)+\b", readme.text))

    assert names(ENGLISH) == names(CHINESE)


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        (["4 min 56 s", "2 cores"], ["2 核", "4 分 56 秒"], True),
        (["13.4 s", "19.2 GiB"], ["13.4 秒", "19.3 GiB"], False),
        (["2026-11-24"], ["2026-11-25"], False),
    ],
)
def test_numbers_of_a_row(one, two, same):
    assert (numbers(one) == numbers(two)) is same
