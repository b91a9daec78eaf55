"""check-data on files of every format it reads, their bytes mutated: a verdict in words, whatever they hold."""

from __future__ import annotations

import io
import json
from pathlib import Path

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import strategies as st

from finetune.commands.check_data import main
from tests.fuzz.mutations import mutated
from tests.fuzz.rounds import call, fuzz

ROOT = Path(__file__).parents[2]
ROWS = [
    {"instruction": "你是谁?", "input": "", "output": "我是一个由 CSDN 迪菲赫尔曼 开发和维护的大语言模型。"},
    {"instruction": "Who are you?", "input": "Say it.", "output": 'I am "the model" of CSDN, by 迪菲赫尔曼.\nYes.'},
    {"instruction": "3+4=?", "output": "7", "history": [["1+1=?", "2"]]},
]
CHATS = [
    {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好!"}], "tools": "[]"},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "system": "Be kind."},
    {"query": "a", "response": "b", "system": "c", "history": []},
]
CSV = "问题,答案,备注\n你是谁?,我是助手,x\n" + '"多行\n问题","a ""quoted"" answer",\n'


def workbook() -> bytes:
    book = openpyxl.Workbook()
    for row in (("question", "answer"), ("你是谁?", "我是助手"), (1, 2.5), ("对吗", True)):
        book.active.append(row)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def parquet(**columns: list) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


VALID = {
    ".json": [json.dumps(ROWS, ensure_ascii=False, indent=1).encode(), json.dumps(CHATS).encode("utf-16")],
    ".jsonl": [lines(ROWS).encode(), lines(CHATS).encode("gb18030"), lines(ROWS[:1]).encode("utf-8-sig")],
    ".csv": [CSV.encode(), CSV.encode("gb18030"), CSV.replace(",", ";").encode("utf-16")],
    ".tsv": [CSV.replace(",", "\t").encode()],
    ".xlsx": [workbook()],
    ".parquet": [
        parquet(question=["你是谁?", "a"], answer=["我是助手", "b"]),
        parquet(messages=[row["messages"] for row in CHATS[:1]]),
    ],
    ".txt": [b"question: answer"],
}
FILES = st.sampled_from(sorted(VALID)).flatmap(lambda suffix: st.tuples(st.just(suffix), mutated(VALID[suffix])))
OPTIONS = st.sampled_from(([], ["--json"], ["--columns", "问题,答案"], ["--convert"], ["--html"]))
COUNTED = st.integers(0, 15).map(lambda number: [] if number == 7 else ["--no-tokens"])  # loading a tokenizer is slow


@pytest.fixture
def model_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, official_tokenizer_dir: Path) -> None:
    """The official tokenizer, so that tokens are counted; no terminal."""
    monkeypatch.setenv("MODEL_DIR", str(official_tokenizer_dir))
    monkeypatch.chdir(tmp_path)


def test_valid_files_are_what_the_mutations_begin_with(model_dir: None, tmp_path: Path) -> None:
    for suffix, files in VALID.items():
        for data in files:
            path = tmp_path / f"faq{suffix}"
            path.write_bytes(data)
            call(lambda words: main(words), [str(path), "--json"], (2,) if suffix == ".txt" else (0,))


def test_whatever_a_file_holds_the_verdict_is_in_words(model_dir: None, tmp_path: Path) -> None:
    for suffix, files in VALID.items():  # what is imported for each format is not the file's memory
        (tmp_path / f"faq{suffix}").write_bytes(files[0])
        call(main, [str(tmp_path / f"faq{suffix}"), "--html", str(tmp_path / "page.html")], (0, 2))

    def check(drawn: tuple[tuple[str, bytes], list[str], list[str]]) -> None:
        (suffix, data), options, tokens = drawn
        path = tmp_path / f"faq{suffix}"
        path.write_bytes(data)
        more = [*options, str(tmp_path / "out")] if options in (["--convert"], ["--html"]) else options
        call(main, [str(path), *more, *tokens], (0, 2))

    assert fuzz(st.tuples(FILES, OPTIONS, COUNTED), check, short=80) >= 60
