"""Chinese text uses Chinese punctuation: documents, and the sentences of the reports (messages: tests/unit/common)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.unit.chinese import half_width
from tests.unit.docs.markdown import PARSER

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [*sorted(ROOT.glob("*.zh-CN.md")), *sorted((ROOT / "docs").glob("*.zh-CN.md"))]


def prose(markdown: str) -> list[str]:
    """The text of each paragraph, heading and cell; inline code as one letter, without links' targets."""
    found = []
    for token in PARSER.parse(markdown):
        if token.type == "inline":
            parts = ("x" if each.type == "code_inline" else each.content for each in token.children or ())
            found.append("".join(parts))
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_have_full_width_marks(path):
    assert [wrong for text in prose(path.read_text(encoding="utf-8")) for wrong in half_width(text)] == []


def test_the_reports_have_full_width_marks():
    catalogue = yaml.safe_load((ROOT / "finetune/verify/words.zh.yaml").read_text(encoding="utf-8"))
    assert {each: half_width(each) for each in catalogue.values() if half_width(each)} == {}


def test_no_sentence_of_a_machine_comes_back():
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for words in ("旁边解包", "测量了什么", "在什么上测量", "峰值保留", "不作任何声称"):
            assert words not in text, path.name


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("测试,完成", 1),
        ("测试（完成）。", 0),
        ("见 (docs) 说明", 1),
        ("用 `a, b:c` 说明", 0),
        ("设为 16, 或更大", 1),
        ("比例是 3:1，ms-swift 4.6", 0),
        ("hf::名字", 0),
        ("端口 8000:可用", 1),
    ],
)
def test_what_is_found(text, wrong):
    assert bool(half_width(text)) is bool(wrong)
    assert re.sub(r"`[^`]*`", "", text)
