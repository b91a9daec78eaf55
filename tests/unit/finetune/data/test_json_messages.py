"""JSON that people and tools write wrongly: the message names what is wrong, and its remedy works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.data.check import check_file
from finetune.data.findings import Finding

ROW = {"instruction": "a", "output": "b"}
CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
LINE = json.dumps(ROW)


def only(tmp_path: Path, text: str, name: str = "faq.jsonl") -> Finding:
    """The first finding in a file of this text."""
    path = tmp_path / name
    path.write_text(text)
    report = check_file(path)
    assert report.errors
    return report.findings[0]


@pytest.mark.parametrize("text", [f"{LINE},\n{LINE},\n", f"{LINE},\n{LINE}", f"{LINE} ,\n{LINE}"])
def test_a_comma_at_a_line_s_end_is_named(tmp_path, text):
    found = only(tmp_path, text)
    assert found.where.startswith("line 1") and "remove the comma at the end of the line" in found.remedy


@pytest.mark.parametrize(
    "text",
    [
        f"[\n  // the greeting\n  {LINE}\n]",
        f"[\n  /* the greeting */ {LINE}\n]",
        f"[{LINE} // one\n]",
        f"[{LINE}, # one\n{LINE}]",
        f"[{LINE}]\n// the end",
        f"// rows\n[{LINE}]",
        f"# rows\n{LINE}\n",
        f"{LINE}\n// {LINE}\n",
        f"{LINE} // one\n",
        '{"instruction": "a", // one\n"output": "b"}\n',
    ],
)
def test_a_comment_is_named(tmp_path, text):
    assert "JSON has no comments" in only(tmp_path, text).remedy


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"data": [ROW, ROW]}, "data"),
        ({"version": "1.0", "rows": [ROW]}, "rows"),
        ({"dataset": {"train": [ROW]}}, "dataset.train"),
        ({"data": [{"q1": "a", "a1": "b"}]}, "data"),
        ({"items": [{"messages": CHAT}]}, "items"),
        ({"data": [CHAT, CHAT]}, "data"),
    ],
)
def test_rows_below_a_key_are_named_with_the_key(tmp_path, value, key, indent):
    found = only(tmp_path, json.dumps(value, indent=indent), "faq.json")
    assert f'the rows are below the key "{key}"' in found.what and "write only the list" in found.remedy


@pytest.mark.parametrize(
    "text",
    [
        "".join(json.dumps(CHAT) + "\n" for _ in range(3)),
        json.dumps([CHAT, CHAT]),
        json.dumps(CHAT, indent=1),
        json.dumps([{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]),
        LINE + "\n" + json.dumps(CHAT),
    ],
)
def test_a_list_of_messages_for_a_row_is_named(tmp_path, text):
    found = only(tmp_path, text)
    assert found.remedy == 'a list of messages is one row: write it as {"messages": [...]}, one row per line'


@pytest.mark.parametrize("row", [ROW, {"messages": CHAT}, {"conversations": CHAT}, {"prompt": "a", "completion": "b"}])
def test_a_row_of_its_own_is_no_list_of_rows(tmp_path, row):
    (tmp_path / "faq.jsonl").write_text(json.dumps(row) + "\n")
    assert check_file(tmp_path / "faq.jsonl").errors == 0
    found = only(tmp_path, json.dumps(row, indent=1), "faq.json")
    assert "write one row per line, or put all rows into a list" in found.remedy
