"""Tables as people and programs leave them: titles, further sheets, a sep= line, number formats, lists in Parquet."""

from __future__ import annotations

import datetime as dt
import json
import shlex
from pathlib import Path

import openpyxl
import pyarrow
import pyarrow.parquet
import pytest

from common.errors import UserError
from finetune.data.check import check_file, in_one_line
from finetune.data.convert import convert
from finetune.data.items import Row
from finetune.data.reading import read


def pairs(path: Path, **options) -> list[tuple[str, str]]:
    """Questions and answers of a file."""
    rows = list(read(path, **options))
    assert all(isinstance(row, Row) for row in rows), rows
    return [(row.data["instruction"], row.data["output"]) for row in rows]  # type: ignore[union-attr]


def workbook(path: Path, **sheets: list[list]) -> openpyxl.Workbook:
    """A workbook with these sheets, not saved yet."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, lines in sheets.items():
        sheet = book.create_sheet(name)
        for line in lines:
            sheet.append(line)
    book.save(path)
    return book


HEAD = ["question", "answer"]


def test_cells_of_a_workbook_are_what_a_person_sees(tmp_path):
    path = tmp_path / "faq.xlsx"
    cells = [
        (0.15, "0%", "15%"),
        (dt.datetime(2025, 3, 9), "yyyy/m/d", "2025/3/9"),
        (dt.timedelta(hours=30), "[h]:mm", "30:00"),
        (True, "General", "TRUE"),
        (1234.5, "#,##0.00 €", "1,234.50 €"),
        (7, "00000", "00007"),
        (12345, "0.00E+00", "1.23E+04"),
        ("as it is ", "General", "as it is "),
    ]
    book = workbook(path, faq=[HEAD])
    for line, (value, code, _) in enumerate(cells, 2):
        book["faq"].cell(line, 1, f"q{line}")
        cell = book["faq"].cell(line, 2, value)
        cell.number_format = code
    book.save(path)
    assert [answer for _, answer in pairs(path)] == [text for _, _, text in cells]


def test_a_date_of_a_chinese_excel_is_no_number(tmp_path):
    """Excel writes such a format by its number alone; openpyxl has no code for it."""
    path = tmp_path / "faq.xlsx"
    book = workbook(path, faq=[HEAD, ["何时", 45725]])
    book["faq"]["B2"].number_format = "0"
    book["faq"]["B2"]._style.numFmtId = 31
    book.save(path)
    assert pairs(path) == [("何时", "2025年3月9日")]


def test_digits_that_are_not_shown_are_said(tmp_path):
    path = tmp_path / "faq.xlsx"
    workbook(path, faq=[HEAD, ["Order?", 123456789012345]])
    assert pairs(path) == [("Order?", "1.23457E+14")]
    (finding,) = check_file(path).findings
    assert finding.kind == "numbers cut short" and "1 numbers" in finding.what and not finding.error


def test_sheets_that_are_left_out_are_named(tmp_path):
    path = tmp_path / "faq.xlsx"
    workbook(path, first=[HEAD, ["Open?", "Nine"]], more=[HEAD, ["Close?", "Six"]], blank=[])
    assert pairs(path) == [("Open?", "Nine")]
    report = check_file(path)
    (finding,) = report.findings
    assert finding.what == "only the sheet first is read, not more"
    assert finding.what in in_one_line([report])


def test_a_cover_sheet_and_hidden_sheets_are_passed_over(tmp_path):
    path = tmp_path / "faq.xlsx"
    book = workbook(path, hidden=[HEAD, ["a", "b"]], cover=[["Our FAQ"], ["2025"]], faq=[HEAD, ["Open?", "Nine"]])
    book["hidden"].sheet_state = "hidden"
    book.save(path)
    assert pairs(path) == [("Open?", "Nine")]
    assert [finding.what for finding in check_file(path).findings] == ["only the sheet faq is read, not cover"]


TITLE = "Customer FAQ 2025"


@pytest.mark.parametrize("form", ["csv", "tsv", "xlsx"])
def test_a_title_above_the_heading_is_left_out_and_said(tmp_path, form):
    path = tmp_path / f"faq.{form}"
    lines = [[TITLE, ""], [], ["Question", "Answer"], ["Open?", "Nine"]]
    if form == "xlsx":
        workbook(path, faq=lines)
    else:
        path.write_text("".join(("\t" if form == "tsv" else ",").join(line) + "\n" for line in lines))
    assert pairs(path) == [("Open?", "Nine")]
    (finding,) = check_file(path).findings
    assert finding.kind == "title row" and TITLE in finding.what and not finding.error


def test_a_title_and_named_columns(tmp_path):
    path = tmp_path / "faq.csv"
    path.write_text("All, of 2025\nfrage;antwort\nOffen?;Neun, bis sechs\n")
    assert pairs(path, columns=("Frage", "Antwort")) == [("Offen?", "Neun, bis sechs")]


def test_a_title_is_not_taken_for_the_columns(tmp_path):
    path = tmp_path / "faq.csv"
    path.write_text(f"{TITLE}\nfrage,antwort\na,b\n")
    with pytest.raises(UserError, match=r"there are frage, antwort\); .* for example --columns frage,antwort"):
        list(read(path))


@pytest.mark.parametrize(("line", "mark"), [("sep=;", ";"), ("SEP=|", "|"), ('"sep=,"', ","), ("\ufeffsep=;", ";")])
def test_a_line_that_names_the_delimiter_is_understood(tmp_path, line, mark):
    path = tmp_path / "faq.csv"
    path.write_text(f"{line}\r\nquestion{mark}answer\r\nOpen?{mark}Nine\r\n", encoding="utf-8", newline="")
    assert pairs(path) == [("Open?", "Nine")]
    (row,) = read(path)
    assert isinstance(row, Row) and row.line == 3
    path.write_text(f"{line}\nquestion{mark}answer\nOpen?{mark}Nine{mark}six\n", encoding="utf-8")
    assert check_file(path).findings[0].where == "row 1 (line 3)"


def test_the_delimiter_is_the_heading_s_not_the_texts(tmp_path):
    path = tmp_path / "faq.csv"
    path.write_text("answer;question\nOne, two, three;Count\nYes, sir;Well?\n")
    assert pairs(path) == [("Count", "One, two, three"), ("Well?", "Yes, sir")]


NESTED = [
    [{"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}],
    [{"question": "a", "answer": {"text": ["b"]}}],
    [{"question": "a", "answer": ["b", "c"]}, {"question": "c", "answer": None}],
    [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "name": None}]}],
    [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "id": 3}],
]


@pytest.mark.parametrize("rows", NESTED, ids=range(len(NESTED)))
def test_lists_and_structs_of_parquet_are_what_they_are_in_json(tmp_path, rows):
    table, text = tmp_path / "x.parquet", tmp_path / "x.json"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)

    def known(value):
        if isinstance(value, dict):
            return {key: known(inner) for key, inner in value.items() if inner is not None}
        return [known(inner) for inner in value] if isinstance(value, list) else value

    text.write_text(json.dumps(known(rows)))
    assert [row.data for row in read(table)] == [row.data for row in read(text)]  # type: ignore[union-attr]
    of_table, of_text = check_file(table), check_file(text)
    assert [(f.where, f.what) for f in of_table.findings] == [(f.where, f.what) for f in of_text.findings]
    if of_text.errors:
        return
    convert([table], tmp_path / "a.jsonl")
    convert([text], tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()


def test_a_list_in_a_named_column_is_refused_by_row_and_column(tmp_path):
    path = tmp_path / "x.parquet"
    rows = [{"frage": "a", "antwort": ["b"]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    (row,) = read(path, ("frage", "antwort"))
    assert isinstance(row, Row) and row.data == {"instruction": "a", "output": ["b"]}


def test_plain_values_of_parquet(tmp_path):
    path = tmp_path / "x.parquet"
    columns = {"question": ["a", "b", "c"], "answer": pyarrow.array([b"x", "é".encode(), b"z"], pyarrow.binary())}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    assert [answer for _, answer in pairs(path)] == ["x", "é", "z"]


@pytest.mark.parametrize(
    ("heading", "option"),
    [
        ("客户问,标准答复", "--columns 客户问,标准答复"),
        ("no,Answer,frage", "--columns no,Answer"),
        ("what they ask,what we say", "--columns 'what they ask,what we say'"),
    ],
)
def test_the_option_that_names_the_columns_is_said_ready_to_paste(tmp_path, monkeypatch, heading, option):
    path = tmp_path / "faq.csv"
    path.write_text(f"{heading}\na,b,c\n", encoding="utf-8")
    with pytest.raises(UserError, match="no column looks like the question") as said:
        list(read(path))
    assert str(said.value).endswith(f"for example {option}")
    monkeypatch.setenv("MIRROR_VIA", "make")
    with pytest.raises(UserError) as said:
        list(read(path))
    (word,) = shlex.split(str(said.value).partition("for example ")[2])
    assert word == f"ARGS={option}"  # and `make` hands it to the script as it is
    columns = shlex.split(option)[1].split(",")
    assert columns[0] in heading and columns[1] in heading


@pytest.mark.parametrize(
    ("lines", "pair"),
    [
        (["序号,客户说,我们答,备注", "1,几点开门?,早上九点。,", "2,怎么续借?,在应用里点续借。,"], "客户说,我们答"),
        (["id,date,svar,frage", "7,2026-01-02,From 9 to 6.,When are you open?"], "svar,frage"),
        (["id,frage,answer", "7,Wann?,At nine."], "frage,answer"),
        (["x,y"], "x,y"),
    ],
)
def test_the_columns_suggested_are_those_that_hold_text(tmp_path, lines, pair):
    path = tmp_path / "faq.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(UserError) as said:
        list(read(path))
    assert str(said.value).endswith(f"for example --columns {pair}")
