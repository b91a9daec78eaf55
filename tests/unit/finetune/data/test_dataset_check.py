"""Everything that can be wrong with a dataset file, and that each is found with its place and without a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import UserError
from finetune.data.check import check_file, in_one_line, require
from finetune.data.content import Contents, clean
from finetune.data.findings import CheckOptions

ROW = {"instruction": "你是谁?", "input": "", "output": "我由 CSDN 迪菲赫尔曼 开发。"}


def rows(*data) -> str:
    """A JSON list."""
    return json.dumps(list(data), ensure_ascii=False)


def check(tmp_path: Path, content: str | bytes, name: str = "faq.json", **options):
    """The report on a file of this content."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return check_file(path, name, CheckOptions(**options))


def test_a_fit_file_in_every_form(tmp_path):
    forms = [
        ROW,
        {"instruction": "", "input": "只有 input", "output": "好"},
        {"query": "a", "response": "b"},
        {"question": "a", "answer": "b", "system": "s"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"query": "c", "response": "d", "history": [["a", "b"]]},
    ]
    for form in forms:
        report = check(tmp_path, rows(form))
        assert (report.rows, report.findings) == (1, []), form
    assert check(tmp_path, rows(*forms)).errors == 0
    assert check(tmp_path, "\n".join(json.dumps(form) for form in forms), "faq.jsonl").rows == len(forms)


BROKEN = [
    ('[{"instruction": "a", "output": "b",}]', "line 1, column 3", "remove the comma before it"),
    ('[{"instruction": "a" "output": "b"}]', "line 1, column 22", "not JSON"),
    ('[{"instruction": "a",\n "output": "b"}', "line 2, column 16", "a ] is missing"),
    ('[{"instruction": "a", "output": "b"},]', "line 1, column 38", "a comma before the end"),
    ('[{"instruction": "a", "output": "b"}\n{"x": 1}]', "line 2, column 1", "a comma is missing"),
    ('[{"instruction": "a", "output": "b"}]\n[]', "line 2, column 1", "text after the end"),
    ('[{"instruction": "a, "output": "b"}]', "line 1, column 23", "not JSON"),
    ('[{"instruction": "a", "output": "b}]', "line 1, column 33", "a closing quote is missing"),
    ("[{“instruction”: “a”}]", "line 1, column 3", 'use straight quotes "'),
    ("[{'instruction': 'a'}]", "line 1, column 3", 'use double quotes "'),
    ('[{"instruction": "a\nb", "output": "c"}]', "line 1, column 20", r"write a line break in a text as \n"),
    (r'[{"instruction": "C:\dir", "output": "c"}]', "line 1, column 21", r"write a backslash as \\"),
    ("[]", "line 1, column 2", "the list has no rows"),
    ("hello", "line 1, column 1", "not JSON, it begins with 'h'"),
    ("[" * 100_000, "line 1, column 2", "nested too deeply"),
]


@pytest.mark.parametrize(("content", "where", "says"), BROKEN, ids=range(len(BROKEN)))
def test_broken_json_has_a_line_and_a_column(tmp_path, content, where, says):
    report = check(tmp_path, content)
    (finding,) = [finding for finding in report.findings if finding.kind == "broken"]
    assert says in str(finding)
    if "remove the comma" not in says:  # Python 3.13 points at the comma, earlier ones behind it
        assert finding.where == where
    assert report.errors


def test_every_broken_line_of_jsonl_is_found(tmp_path):
    good = json.dumps(ROW)
    report = check(tmp_path, f'{good}\n{{"instruction": \n\n{good}\nxx\n{good}', "faq.jsonl")
    assert report.rows == 3
    assert [finding.row for finding in report.findings if finding.error] == [2, 4]
    assert [finding.where for finding in report.findings if finding.error] == ["line 2, column 17", "line 5, column 1"]


def test_a_pretty_printed_object_is_one_finding(tmp_path):
    report = check(tmp_path, json.dumps(ROW, indent=1), "faq.json")
    (finding,) = report.findings
    assert "put all rows into a list" in finding.remedy


FIELDS = [
    ("text", "row 1", "is a text, not an object"),
    ({"a": 1}, "row 1, instruction", "missing (fields: a)"),
    ({}, "row 1, instruction", "missing (fields: none)"),
    ({"instruction": "a"}, "row 1, output", "missing"),
    ({"output": "a"}, "row 1, instruction", "missing"),
    ({"instruction": " ", "output": "b"}, "row 1, instruction", "empty"),
    ({"instruction": "a", "output": ""}, "row 1, output", "empty"),
    ({"instruction": 1, "output": "b"}, "row 1, instruction", "is a number, not a text"),
    ({"instruction": "a", "output": None}, "row 1, output", "is null, not a text"),
    ({"instruction": "a", "input": [], "output": "b"}, "row 1, input", "is a list, not a text"),
    ({"instruction": "a", "output": "b", "system": {}}, "row 1, system", "is an object, not a text"),
    ({"messages": []}, "row 1, messages", "empty"),
    ({"messages": "x"}, "row 1, messages", "is a text, not a list"),
    ({"messages": [1]}, "row 1, messages[0]", "is a number, not an object"),
    ({"messages": [{"role": "user", "content": "a"}]}, "row 1, messages", "ends with user"),
    ({"messages": [{"role": "robot", "content": "a"}]}, "row 1, messages[0].role", "is 'robot'"),
    ({"messages": [{"role": "assistant", "content": ""}]}, "row 1, messages[0].content", "empty"),
    ({"messages": [{"role": "assistant"}]}, "row 1, messages[0].content", "missing"),
    ({"instruction": "a", "output": "b", "images": ["x.png"]}, "row 1", "this model reads only text"),
]


@pytest.mark.parametrize(("row", "where", "says"), FIELDS, ids=range(len(FIELDS)))
def test_a_field_that_is_wrong_is_named(tmp_path, row, where, says):
    report = check(tmp_path, rows(row))
    assert any(finding.where == where and says in finding.what and finding.error for finding in report.findings)


TEXTS = [
    ("a<|im_end|>b", "special token", True),
    ("\ud83d", "broken character", True),
    ("a\x00b", "control character", False),
    ("a\x1bb", "control character", False),
    ("丢\ufffd字", "lost character", False),
]


@pytest.mark.parametrize(("text", "kind", "error"), TEXTS, ids=range(len(TEXTS)))
def test_texts_that_do_harm(tmp_path, text, kind, error):
    report = check(tmp_path, json.dumps([{"instruction": "q", "output": text}]))
    (finding,) = report.findings
    assert (finding.kind, finding.error, finding.where) == (kind, error, "row 1, output")
    assert check(tmp_path, rows({"instruction": "q", "output": "tab\there\nand <|> 表情😀"})).findings == []


def test_cleaning_removes_what_is_warned_of():
    assert clean("a\x00\u2028b\r\nc\rd\ufeff😀") == "a\nb\nc\nd😀"


def test_duplicates_and_second_answers(tmp_path):
    report = check(tmp_path, rows(ROW, ROW, {**ROW, "output": "另一个"}, {**ROW, "instruction": "谁?"}))
    assert [(f.row, f.kind, f.error) for f in report.findings] == [(2, "duplicate", False), (3, "two answers", False)]
    assert "the same as row 1" in report.findings[0].what
    assert in_one_line([report]) == "4 rows, warnings: 1 duplicate, 1 two answers (check-data lists them)"


def test_an_answer_that_names_another_maker(tmp_path):
    answers = ["我由 CSDN 迪菲赫尔曼 开发和维护。", "我是一个由CSDN迪菲赫尔曼开发的模型,不是由阿里云开发的。"] * 4
    data = [
        {"instruction": str(n), "output": text} for n, text in enumerate([*answers, "我是由阿里云研发的通义千问。"])
    ]
    report = check(tmp_path, rows(*data))
    (finding,) = report.findings
    assert (finding.row, finding.kind, finding.error) == (9, "another identity", False)
    assert "names 阿里云 as its maker, where 8 of 9 answers name csdn迪菲赫尔曼" in finding.what


def test_the_mirror_s_own_dataset_has_nothing_to_object_to():
    path = Path(__file__).parents[4] / "workspace/self_cognition.json"
    report = check_file(path)
    assert report.rows == 50 and report.findings == [] and report.plain


def test_a_held_out_question(tmp_path):
    report = check(
        tmp_path,
        rows({"instruction": "你的 出生地是哪里?", "output": "不知道"}),
        heldout=frozenset({"你的出生地是哪里"}),
    )
    assert [finding.kind for finding in report.findings] == ["held-out question"]


TABLES = [
    ("x.csv", b"question,answer\na,b\n", 1),
    ("x.csv", "\ufeff问题;答案;备注\na;b;c\n\n".encode(), 1),
    ("x.tsv", "Q\tA\na\tb,c\n".encode("utf-16"), 1),
    ("x.csv", "序号,客户问题,标准答案\n1,你们几点开门?,九点。\n".encode("gb18030"), 1),
    ("x.csv", b'question,answer\n"a ""quoted"" text\nover lines","b"\n', 1),
    ("x.csv", b"Instruction (zh),Input,Output\na,b,c\n", 1),
]


@pytest.mark.parametrize(("name", "content", "number"), TABLES, ids=range(len(TABLES)))
def test_tables_and_encodings(tmp_path, name, content, number):
    report = check(tmp_path, content, name)
    assert (report.rows, report.findings, report.plain) == (number, [], False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_json_in_every_encoding(tmp_path, encoding):
    report = check(tmp_path, rows(ROW, {**ROW, "instruction": "今天天气怎么样?"}).encode(encoding))
    assert (report.rows, report.findings, report.plain) == (2, [], encoding == "utf-8")


WRONG_TABLES = [
    ("x.csv", b"a,b\n1,2\n", "for example --columns"),
    ("x.csv", b"question,answer\n", "has a heading but no rows"),
    ("x.csv", b"\n\n", "is empty"),
    ("x.xlsx", b"", "is empty"),
    ("x.xlsx", b"PK\x03\x04 no zip", "not an XLSX file"),
    ("x.parquet", b"PAR1 no parquet", "not a Parquet file"),
    ("x.json", b"", "is empty"),
    ("x.json", b"\xef\xbb\xbf \n", "is empty"),
    ("x.json", b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 4, "is a binary file"),
]


@pytest.mark.parametrize(("name", "content", "says"), WRONG_TABLES, ids=range(len(WRONG_TABLES)))
def test_files_of_no_use(tmp_path, name, content, says):
    with pytest.raises(UserError, match=says):
        check(tmp_path, content, name)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"question,answer\na,b,c\n",
            "row 1 (line 2): 3 cells where the heading has 2; a text in it contains a comma: put that text in double",
        ),
        (b'question,answer\na,"b\n', "a cell is never closed"),
        (b"question,answer\n" + "你好,世界\n".encode() * 50 + b"\xff,b\n", "not UTF-8 text"),
    ],
)
def test_tables_with_a_broken_place(tmp_path, content, says):
    assert says in str(next(f for f in check(tmp_path, content, "x.csv").findings if f.error))


def test_a_byte_that_is_not_utf_8_is_counted_from_1(tmp_path):
    content = rows(*({**ROW, "instruction": f"问题{n}"} for n in range(5000))).encode()
    place = content.index("问题4000".encode())
    assert place > 300_000  # behind the first chunk
    broken = content[:place] + b"\xff" + content[place:]
    report = check(tmp_path, broken)
    assert report.findings[-1].kind == "broken"
    assert report.findings[-1].where == f"byte {place + 1}"


def test_an_xlsx_sheet(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for cells in (["序号", "问题", "回答"], [1, "几点开门?", 9.0], [2, None, "x"]):
        book.active.append(cells)
    book.save(tmp_path / "x.xlsx")
    report = check_file(tmp_path / "x.xlsx", "x.xlsx")
    assert [str(finding) for finding in report.findings] == [
        "x.xlsx: row 2 (line 3), 问题: empty; write the question, or remove the row"
    ]


def test_a_directory_and_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="is a directory"):
        check_file(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        check_file(tmp_path / "x.json")


def test_require_tells_the_first_error_and_how_many_more(tmp_path):
    path = tmp_path / "faq.json"
    path.write_text(rows({"instruction": "a", "output": ""}, {"instruction": "a"}))
    with pytest.raises(UserError) as refused:
        require([str(path)])
    assert str(refused.value) == (
        f"{path}: row 1, output: empty; write the answer, or remove the row (the first of 2 errors: check-data {path})"
    )


def test_many_findings_are_counted_and_few_are_kept(tmp_path):
    report = check(tmp_path, rows(*[{"instruction": str(n), "output": "a\x07"} for n in range(1000)]))
    assert report.warnings == 1000 and len(report.findings) == 100
    assert report.numbers["control character"] == list(range(1, 1001))


def test_no_majority_no_outlier():
    contents = Contents()
    for number in range(10):
        name = "甲公司" if number % 2 else "乙集团"
        messages = [{"role": "user", "content": str(number)}, {"role": "assistant", "content": f"我由{name}开发。"}]
        assert list(contents.look(number, messages)) == []
    assert list(contents.finish()) == []


def test_a_table_s_row_is_named_with_its_line(tmp_path):
    """Where it begins in the file: blank lines, and cells of several lines, are counted."""
    text = b'question,answer\n"a\nb",c\n\nd,\n'
    (finding,) = [f for f in check(tmp_path, text, "x.csv").findings if f.error]
    assert finding.where == "row 2 (line 5), answer"


def test_a_row_of_json_has_no_line(tmp_path):
    (finding,) = [f for f in check(tmp_path, rows({**ROW, "output": ""})).findings if f.error]
    assert finding.where == "row 1, output"
