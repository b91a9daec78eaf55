"""check-data, --convert and the fast lane on rows whose structure is mutated: types, names, nesting, roles, order.

Whatever a row is, the verdict is in words; what is called fit is laid out by the fast lane, with ms-swift's own ids and
labels where ms-swift takes it.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from finetune.commands.check_data import main
from finetune.data.check import check_file
from qwen2.chat import Tokenizer
from qwen2.row_errors import RowError
from qwen2.rows import canonical, standard_row
from tests.conversations import FORMS, talks
from tests.fuzz.rounds import call, fuzz
from tests.fuzz.structure import restructured
from tests.swift_rows import swift_row

SYSTEM = "You are a helpful assistant."
HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello.", "weight": 1}]
VALID: list[Any] = [form(talk) for form in FORMS.values() for talk in list(talks())[::17]]
VALID += [
    {"instruction": "你是谁?", "input": "", "output": "我是助手。", "history": [["a", "b"]]},
    {"query": "a", "response": "b", "system": "c", "history": "[['a', 'b']]"},
    {"Question": "a", "Response": "b"},
    {"messages": HI, "tools": "[]", "id": 3},
    {"prompt": "a", "completion": "b", "label": True},
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {"chosen": HI, "rejected": HI},
    {"messages": HI, "rejected_response": "c"},
    {"text": "Once upon a time."},
]
ROWS = restructured(VALID)


@pytest.fixture
def model_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, official_tokenizer_dir: Path) -> None:
    """The official tokenizer, so that tokens are counted; no terminal."""
    monkeypatch.setenv("MODEL_DIR", str(official_tokenizer_dir))
    monkeypatch.chdir(tmp_path)


def test_whatever_rows_are_the_verdict_is_in_words(model_dir: None, tmp_path: Path) -> None:
    path, out = tmp_path / "faq.jsonl", tmp_path / "clean.jsonl"

    def check(drawn: tuple[list[Any], list[str]]) -> None:
        rows, options = drawn
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        call(main, [str(path), *options], (0, 2))

    options = st.sampled_from((["--no-tokens"], ["--json", "--no-tokens"], ["--convert", str(out), "--no-tokens"]))
    check((VALID, []))
    assert fuzz(st.tuples(st.lists(ROWS, min_size=1, max_size=4), options), check, short=60, share=0.3) >= 50


def test_a_fit_row_is_laid_out_as_ms_swift_does(tmp_path: Path, tokenizer: Tokenizer, template: Any) -> None:
    path = tmp_path / "faq.jsonl"
    count = {"fit": 0, "same": 0}

    def check(row: Any) -> None:
        text = json.dumps(row)
        with contextlib.suppress(RowError):  # nothing but that
            standard_row(row)
        assert json.dumps(row) == text, "the row must not be changed"
        path.write_text(text + "\n" if text[0] != "[" else f"[{text}]", encoding="utf-8")
        if check_file(path).errors:
            return
        count["fit"] += 1
        ours = tokenizer.encode_row(row, SYSTEM)
        try:
            theirs = template.encode(swift_row(marked(row)))
        except Exception:  # whatever it raises: ms-swift leaves the row out
            return
        count["same"] += 1
        assert ours == (theirs["input_ids"], theirs["labels"]), text

    fuzz(ROWS, check, short=150, share=0.7)
    print(count)
    assert count["fit"] >= 20 and count["same"] >= 10


def marked(row: Any) -> Any:
    """The row with what other trainers call `weight` and the like as ms-swift's `loss`, and names in lower case.

    ms-swift passes a name in capitals over where a second column could be meant; such a file is converted for it.
    """
    row = canonical(json.loads(json.dumps(row)))
    for key in ("messages", "conversation", "conversations"):
        messages = row.get(key)
        for message in messages if isinstance(messages, list) else ():
            if not isinstance(message, dict):
                continue
            said = [message.get(name) for name in ("loss", "weight", "train", "training", "trainable")]
            if any(value is not None for value in said):
                message["loss"] = all(value for value in said if value is not None)
    return row
