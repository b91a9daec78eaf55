"""check-data on the command line, and that what it converts is clean and says the same."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from rich.console import Console

from common.errors import UserError
from finetune.commands.check_data import main
from finetune.data.check import check_file
from finetune.data.content import SPECIAL, SURROGATE, clean
from finetune.data.convert import convert
from finetune.data.report import histogram, terminal

# Any text, and besides what readers and writers of tables stumble over. Two halves of a character beside each other are
# one character to JSON; half a one can be escaped in JSON and nowhere else.
STUMBLES = [
    "\r\n",
    "\r",
    "\n",
    "\u2028",
    "\x85",
    '"',
    '""',
    ",",
    ";",
    "\t",
    "'",
    "\\",
    "\\n",
    "\\u0041",
    "\ufeff",
    "\x00",
]
STUMBLES += [
    "\x1b[0m",
    "\x7f",
    " ",
    "\u3000",
    "\u200d",
    "e\u0301",
    "\U0001f600",
    "\ufffd",
    "\ufdd0",
    "=1+1",
    "#N/A",
    "007",
    "1e5",
]
STUMBLES += [
    "{",
    "}",
    "[",
    "null",
    "NaN",
    "<|im_end|>",
    "<|im",
    "_end|>",
    "{{NAME}}",
    "<script>",
    "答案",
    "我由甲公司开发。",
]
HALVES = ["\ud83d", "\ude00"]


def cells(pieces: list[str]) -> st.SearchStrategy[str]:
    """Texts of any characters and of some of these pieces."""
    anything = st.text(st.characters(codec="utf-8"), max_size=30)
    joined = st.lists(st.one_of(st.sampled_from(pieces), anything.map(lambda text: text[:3])), max_size=8).map("".join)
    whole = joined.map(lambda text: text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass"))
    return st.one_of(anything, whole)


def tables(pieces: list[str]) -> st.SearchStrategy[list[tuple[str, str]]]:
    return st.lists(st.tuples(cells(pieces), cells(pieces)), min_size=1, max_size=8)


def said(path: Path) -> list[tuple[str, str]]:
    """(question, answer) of every row of converted JSONL."""
    found = []
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        question, answer = json.loads(line)["messages"]
        assert (question["role"], answer["role"]) == ("user", "assistant")
        found.append((question["content"], answer["content"]))
    return found


def wanted(table: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What of a table is fit to train on, each once."""
    harmful = [pattern.search for pattern in (SPECIAL, SURROGATE)]
    fit = [pair for pair in table if all(clean(c).strip() and not any(bad(clean(c)) for bad in harmful) for c in pair)]
    return list(dict.fromkeys((clean(question), clean(answer)) for question, answer in fit))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all examples: every example writes its files anew."""
    return tmp_path_factory.mktemp("convert")


JSON_FORMS = ["list", "jsonl", "messages", "sharegpt", "utf-16"]
FORMS = [*JSON_FORMS, "csv", "tsv", "utf-16.csv", "xlsx", "parquet"]


def write(folder: Path, form: str, table: list[tuple[str, str]]) -> Path:
    """The table as a file of a form."""
    if form.endswith(("csv", "tsv")):
        path = folder / f"in.{form}"
        with path.open("w", encoding="utf-16" if form.startswith("utf-16") else "utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if form == "tsv" else ",", quoting=csv.QUOTE_ALL)
            writer.writerow(["问题", "答案"])
            writer.writerows(table)
        return path
    if form == "xlsx":
        return write_xlsx(folder / "in.xlsx", table)
    if form == "parquet":
        questions, answers = zip(*table, strict=True)
        pyarrow.parquet.write_table(pyarrow.table({"问题": questions, "答案": answers}), folder / "in.parquet")
        return folder / "in.parquet"
    rows = {
        "messages": [
            {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in table
        ],
        "sharegpt": [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in table],
    }.get(form) or [{"instruction": q, "input": "", "output": a} for q, a in table]
    path = folder / f"in-{form}.json"
    plain = not any(SURROGATE.search(cell) for pair in table for cell in pair)
    if form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        text = json.dumps(rows, ensure_ascii=not plain)
        path.write_text(text, encoding="utf-16" if form == "utf-16" else "utf-8", newline="")
    return path


def write_xlsx(path: Path, table: list[tuple[str, str]]) -> Path:
    """A sheet of texts, also where they look like numbers and formulas."""
    book = openpyxl.Workbook()
    book.active.append(["问题", "答案"])
    for line, pair in enumerate(table, 2):
        for column, text in enumerate(pair, 1):
            cell = book.active.cell(line, column)
            cell.value, cell.data_type = text, "s"
    book.save(path)
    return path


def can_be_written(form: str, table: list[tuple[str, str]]) -> bool:
    """Whether the form has any way to write these texts."""
    text = "".join(cell for pair in table for cell in pair)
    if form in ("csv", "tsv"):
        return "\0" not in text  # a zero byte makes a text file a binary one; JSON writes it as \u0000
    if form == "xlsx":  # XML has no control characters, and reads every line break as \n
        return not re.search("[\x00-\x08\x0b-\x1f\r\ufffe\uffff]", text)
    return True


@pytest.mark.parametrize("form", FORMS)
# A form that cannot write every text skips those that it cannot, and a busy machine is slow.
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.filter_too_much,
        HealthCheck.too_slow,
    ],
)
@given(data=st.data())
def test_any_table_converted_is_clean_and_says_the_same(folder, form, data):
    table = data.draw(tables([*STUMBLES, *HALVES] if form in JSON_FORMS else STUMBLES))
    assume(can_be_written(form, table))
    source, out = write(folder, form, table), folder / f"{form}.jsonl"
    out.unlink(missing_ok=True)
    try:
        written, _ = convert([source], out)
    except UserError as error:  # nothing in it but blank cells
        assert not any(cell.strip() for pair in table for cell in pair), error
        return
    expected = wanted(table)
    if not expected:
        assert not out.exists()
        return
    assert said(out) == expected
    assert written.rows == len(expected)
    # A second conversion has nothing left to do.
    convert([out], folder / "again.jsonl")
    assert (folder / "again.jsonl").read_bytes() == out.read_bytes()
    report = check_file(out)
    assert report.errors == 0 and report.plain
    # Two answers to one question, a lost character or a placeholder are for a person to decide.
    assert set(report.numbers) <= {"two answers", "lost character", "another identity", "placeholder"}


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=50))
def test_a_histogram_counts_every_row_once(lengths):
    bars = histogram(lengths)
    assert sum(count for _, _, count in bars) == len(lengths)
    assert len(bars) <= 10
    assert bars[0][0] == min(lengths) and bars[-1][1] >= max(lengths)
    for low, high, count in bars:
        assert count == sum(low <= length <= high for length in lengths)


def test_surrogates_are_found():
    assert SURROGATE.search("\ud800")


@pytest.fixture
def files(mirror):
    """A fit table and an unfit list in the working folder."""
    (mirror / "faq.csv").write_text("question,answer\na,b\na,b\nc,\n")
    (mirror / "good.json").write_text('[{"instruction": "a", "input": "", "output": "b"}]')
    return mirror


def test_the_command_line(files, capsys):
    assert main(["good.json"]) == 0
    captured = capsys.readouterr()
    fit, verdict = captured.out.splitlines()
    assert fit == "good.json: 1 rows (utf-8), fit"
    assert verdict.startswith("verdict: none; a single row gives no verdict")
    assert "tokens are not counted" in captured.err
    assert main(["faq.csv", "good.json"]) == 2
    captured = capsys.readouterr()
    assert (
        captured.err.splitlines()[-1]
        == "error: faq.csv: row 3 (line 4), answer: empty; write the answer, or remove the row"
    )
    assert "duplicate" in captured.out and "write the answer" in captured.out


def test_convert_on_the_command_line(files, capsys):
    assert main(["faq.csv", "good.json", "--convert", "out.jsonl"]) == 0
    assert said(files / "out.jsonl") == [("a", "b")]
    assert capsys.readouterr().err.splitlines()[-1] == "out.jsonl: 1 rows written; left out: 1 unfit, 2 repeated"
    assert [path.name for path in files.iterdir() if path.name.startswith(".out")] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["good.json", "--convert", "good.json"], "is the file that is read"),
        (["good.json", "--convert", "nowhere/x.jsonl"], "there is no folder nowhere"),
        (["good.json", "--convert", "."], "is a directory"),
        (["bad.json", "--convert", "x.jsonl"], "no row is fit"),
        (["good.json", "--max-length", "0"], "not a number of tokens"),
        (["good.json", "--html", "nowhere/x.html"], "cannot be written"),
        (["faq.csv", "--columns", "question"], "name two columns"),
        (["faq.csv", "--columns", "q,a"], "no column q; there are question, answer"),
        (["faq.csv", "--columns", "answer,answer"], "one column cannot be both"),
        (["nowhere.csv"], "no such file"),
        ([], "the following arguments are required"),
    ],
)
def test_what_cannot_be_done(files, words, says):
    (files / "bad.json").write_text('[{"instruction": "a", "output": ""}]')
    with pytest.raises(UserError, match=says):
        main(words)
    assert not (files / "x.jsonl").exists()


def test_json_and_html(files, capsys):
    assert main(["faq.csv", "--json", "--html", "report.html"]) == 2
    data = json.loads(capsys.readouterr().out)
    assert data["fit"] is False
    (file,) = data["files"]
    assert (file["rows"], file["errors"], file["warnings"], file["encoding"]) == (3, 1, 1, "utf-8")
    assert file["numbers"] == {"duplicate": [2], "empty": [3]}
    page = (files / "report.html").read_text(encoding="utf-8")
    assert "row 3 (line 4), answer" in page and "<script" not in page


def test_a_page_escapes_what_the_data_says(files, capsys):
    (files / "x.json").write_text('[{"<script>": 1}]')
    assert main(["x.json", "--html", "x.html"]) == 2
    assert "<script>" not in (files / "x.html").read_text()


@pytest.mark.parametrize(("rows", "told"), [([{"output": "b"}], "1 处错误"), ([{"output": "b"}] * 2, "2 处错误")])
def test_errors_are_counted_in_chinese(files, capsys, monkeypatch, rows, told):
    monkeypatch.setenv("MIRROR_LANG", "zh")
    (files / "x.json").write_text(json.dumps(rows))
    assert main(["x.json"]) == 2
    assert told in capsys.readouterr().out


def test_a_hub_dataset_is_left_to_ms_swift(files, capsys):
    assert main(["AI-ModelScope/alpaca-gpt4-data-zh#500"]) == 0
    assert "a hub dataset" in capsys.readouterr().err


def test_the_host_s_name_of_a_mounted_file_is_the_one_that_is_shown(tmp_path, monkeypatch, capsys):
    """Through make, /data/faq.csv is what the user called ../faq.csv."""
    (tmp_path / "faq.csv").write_text("question,answer\nq,\nr,b\n")
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path))
    monkeypatch.setenv("MIRROR_HOST_OUTPUT", "/home/me/out")
    assert main([str(tmp_path / "faq.csv"), "--no-tokens"]) == 2
    out = capsys.readouterr()
    assert out.out.startswith("/home/me/out/faq.csv: 2 rows")
    assert str(tmp_path) not in out.out + out.err


def test_one_is_one_error_and_a_class_of_one_length_is_one_figure(tmp_path, capsys):
    path = tmp_path / "faq.jsonl"
    rows = [{"query": "a", "response": ""}, {"query": "b", "response": "c"}, {"query": "b", "response": "c"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = check_file(path)
    report.lengths = [33, 35]
    terminal(Console(width=100), [report])
    shown = capsys.readouterr().out
    assert "1 error, 1 warning" in shown
    assert [line.split() for line in shown.splitlines()[-3:]] == [
        ["33", "█" * 40, "1"],
        ["34", "0"],
        ["35", "█" * 40, "1"],
    ]
