"""Bad files, each given to a real check-data process: exit 2 or the named warning, no traceback, less than 1 GiB."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
GIB = 1 << 30
ROW = {"instruction": "你是谁?", "input": "", "output": "我由 CSDN 迪菲赫尔曼 开发。"}
# Runs a command and writes its peak of resident memory, in KiB. A process inherits the peak of the one that starts it,
# which here would be pytest with torch in it.
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


@dataclass(frozen=True)
class Bad:
    """A file: its name, its content (or a function that makes it at a path), and what is said of it."""

    name: str
    content: bytes | str | Callable[[Path], None]
    says: str
    code: int = 2  # 0: a warning, of which `says` is the kind
    words: tuple[str, ...] = field(default=("--no-tokens",))


@dataclass(frozen=True)
class Said:
    """How check-data ended."""

    code: int
    out: str
    err: str
    peak: int  # bytes


def run(path: Path | bytes, *words: str, work: Path, user: int | None = None) -> Said:
    """check-data of the image, as a process of its own."""
    peak = work / "peak"
    environ = {"MIRROR_ROOT": str(ROOT), "MIRROR_PYTHON": sys.executable, "MODEL_DIR": str(work / "model")}
    command = [sys.executable, "-c", MEASURE, str(peak), str(ROOT / "entrypoint/bin/check-data"), *words, path]
    done = subprocess.run(
        command, capture_output=True, timeout=20, cwd=work, env={**os.environ, **environ, "COLUMNS": "300"}, user=user
    )
    out, err = (text.decode("utf-8", "surrogateescape") for text in (done.stdout, done.stderr))
    return Said(done.returncode, out, err, int(peak.read_text()) << 10)


def must_be_one_line(said: Said, code: int = 2) -> None:
    """No traceback, not even one that was put into a file; an error is the one line on stderr."""
    both = said.out + said.err
    assert said.code == code, both
    assert "Traceback" not in both and "internal error" not in both, both
    assert said.peak < GIB, f"{said.peak >> 20} MB"
    if code == 2:
        lines = [line for line in said.err.splitlines() if not line.startswith("no tokenizer.json")]
        assert len(lines) == 1 and lines[0].startswith("error: "), said.err


def rows(*data: object) -> str:
    """A JSON list."""
    return json.dumps(list(data), ensure_ascii=False)


def with_(**changes: object) -> str:
    """A fit row and one with these changes."""
    return rows(ROW, {"instruction": "a", "input": "", "output": "b"} | changes)


def deep(opening: str, closing: str, depth: int = 100_000) -> str:
    return opening * depth + closing * depth


def workbook(cells: list[list[object]]) -> bytes:
    """An XLSX file."""
    import openpyxl

    book = openpyxl.Workbook()
    for line in cells:
        book.active.append(line)
    data = io.BytesIO()
    book.save(data)
    return data.getvalue()


def zip_bomb(path: Path) -> None:
    """A workbook of some 300 KB with a cell of 300 MB."""
    book = zipfile.ZipFile(io.BytesIO(workbook([["question", "answer"], ["a", "long"]])))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bomb:
        for name in book.namelist():
            before, mark, after = book.read(name).partition(b"<t>long</t>")
            with bomb.open(name, "w") as file:
                file.write(before + mark.replace(b"long</t>", b""))
                for _ in range(300 if mark else 0):
                    file.write(b"a" * 1_000_000)
                file.write(mark.replace(b"<t>long", b"") + after)


def parquet(path: Path) -> None:
    """A good Parquet file."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"question": ["a", "b"] * 500, "answer": ["c"] * 1000}), path)


def parquet_bomb(path: Path) -> None:
    """A small Parquet file with a cell of 64 MB."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"question": ["a" * (64 << 20)], "answer": ["b"]})
    pyarrow.parquet.write_table(table, path, compression="zstd", use_dictionary=False)


def cut(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """The first half of what `make` makes."""

    def half(path: Path) -> None:
        make(path)
        os.truncate(path, path.stat().st_size // 2)

    return half


def sparse(head: bytes, filled: int = 48 << 20) -> Callable[[Path], None]:
    """A file of 1 GB: `head`, 48 MB of the letter a, and zeros that take no room on disk."""

    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.write(head + b"a" * filled)
            file.truncate(GIB)

    return make


def bind_socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the name of a socket has at most 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path.name)
    finally:
        os.chdir(before)


TABLE = "question,answer\n"
CHAT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
FILES = {
    # No file of text
    "empty": Bad("x.json", b"", "is empty"),
    "blank": Bad("x.json", b" \n\t\n" * 50, "is empty"),
    "a mark and nothing": Bad("x.jsonl", b"\xef\xbb\xbf", "is empty"),
    "empty table": Bad("x.csv", b"", "is empty"),
    "empty workbook": Bad("x.xlsx", b"", "is empty"),
    "directory": Bad("x.json", Path.mkdir, "is a directory"),
    "directory called as a table": Bad("x.csv", Path.mkdir, "is a directory"),
    "fifo": Bad("x.json", os.mkfifo, "not a regular file"),
    "fifo called as a table": Bad("x.csv", os.mkfifo, "not a regular file"),
    "fifo called as a workbook": Bad("x.xlsx", os.mkfifo, "not a regular file"),
    "device": Bad("x.json", lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "socket": Bad("x.json", bind_socket, "not a regular file"),
    "link to nothing": Bad("x.json", lambda path: path.symlink_to("nowhere"), "no such file"),
    "link to itself": Bad("x.json", lambda path: path.symlink_to(path.name), "no such file"),
    "binary": Bad("x.json", bytes(range(256)) * 300, "is a binary file"),
    "picture called as a table": Bad("x.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(200), "is a binary file"),
    "gzip": Bad("x.json", gzip.compress(with_().encode()), "is a binary file"),
    "truncated gzip": Bad("x.jsonl", gzip.compress(os.urandom(4000))[:2000], "is a binary file"),
    "1 GB, one text": Bad("x.json", sparse(b'[{"instruction": "'), "a row of more than 16 million characters"),
    "1 GB, one word": Bad("x.json", sparse(b""), "not JSON, it begins with 'a'"),
    "1 GB, one object": Bad("x.jsonl", sparse(b'{"instruction": "'), "a line of more than 16 million characters"),
    "1 GB, one cell": Bad("x.csv", sparse(b'question,answer\n"'), "a line of more than 16 million characters"),
    "1 GB, one heading": Bad("x.csv", sparse(b""), "a line of more than 16 million characters"),
    "1 GB of nothing": Bad("x.json", sparse(b"", 0), "is a binary file"),
    "1 GB of nothing, a table": Bad("x.tsv", sparse(b"", 0), "is a binary file"),
    # Text in no encoding
    "broken UTF-8": Bad("x.json", with_().encode()[:-8] + b"\xff" + b'"}]', "not UTF-8 text"),
    "broken UTF-8, a table": Bad("x.csv", (TABLE + "问,答\n" * 40).encode() + b"\xe9\n", "not UTF-8 text"),
    "half a character at the end": Bad("x.jsonl", json.dumps(ROW, ensure_ascii=False).encode() + b"\n\xe4", "UTF-8"),
    "UTF-16 with half a character": Bad("x.json", with_().encode("utf-16")[:-1], "not UTF-16 text"),
    "half a GB18030 character": Bad("x.csv", "问题,答案\n你好吗,很好\n".encode("gb18030") * 9 + b"\x81", "text; save"),
    # Text that is no JSON
    "cut off": Bad("x.json", with_()[:-4], "a closing quote is missing"),
    "no end of the list": Bad("x.json", with_()[:-1], "the list has no end"),
    "last comma": Bad("x.json", with_()[:-1] + ",]", "remove the last comma"),
    "no comma": Bad("x.json", with_().replace("}, {", "} {"), "a comma is missing"),
    "text after the end": Bad("x.json", with_() + with_(), "text after the end"),
    "single quotes": Bad("x.json", str([ROW]), "use double quotes"),
    "typographic quotes": Bad("x.json", "[{“instruction”: “a”}]", "use straight quotes"),
    "line break in a text": Bad("x.json", '[{"instruction": "a\nb"}]', "write a line break"),
    "backslash": Bad("x.json", r'[{"instruction": "C:\data"}]', "write a backslash as"),
    "half an escape": Bad("x.json", r'[{"instruction": "\ud8"}]', "not JSON"),
    "a list of no rows": Bad("x.json", "[]", "the list has no rows"),
    "a number": Bad("x.json", "42", "not JSON, it begins with '4'"),
    "a word of JSON": Bad("x.json", "null", "not JSON, it begins with 'n'"),
    "YAML": Bad("x.json", "- instruction: a\n  output: b\n", "not JSON, it begins with '-'"),
    "HTML": Bad("x.jsonl", "<html><body>404</body></html>", "not JSON, it begins with '<'"),
    "a pretty-printed object": Bad("x.jsonl", json.dumps(ROW, indent=2), "one row per line"),
    "a broken line": Bad("x.jsonl", json.dumps(ROW) + '\n{"instruction": \n', "line 2, column 17"),
    "nested 100,000 deep": Bad("x.json", deep("[", "]"), "nested too deeply"),
    "objects nested 100,000 deep": Bad("x.jsonl", deep('{"a":', "}").replace(":}", ":1}"), "nested too deeply"),
    **{
        f"nested {depth} deep beside the texts": Bad(
            "x.json", with_(extra=0).replace("0", deep("[", "]", depth)), "nested too deeply"
        )
        for depth in (50, 300, 900)
    },
    "NaN": Bad("x.json", with_(output=float("nan")), "row 2, output: is a number, not a text"),
    "Infinity": Bad("x.jsonl", '{"instruction": -Infinity, "output": "b"}\n', "instruction: is a number, not a text"),
    "1e999": Bad("x.json", with_(output=0).replace("0}", "1e999}"), "output: is a number, not a text"),
    "a number of 10,000 digits": Bad("x.json", with_(output=0).replace("0}", "9" * 10_000 + "}"), "a number of more"),
    "one in a line": Bad("x.jsonl", '{"instruction": ' + "9" * 10_000 + "}\n", "line 1: a number of more"),
    "a million empty objects": Bad("x.json", "[" + rows(*[{}] * 1_000_000) + "]", "is a list, not an object"),
    # Rows that are none
    "texts": Bad("x.json", rows("a", "b"), "row 1: is a text, not an object"),
    "an empty row": Bad("x.json", rows({}), "instruction: missing (fields: none)"),
    "other fields": Bad("x.json", rows({"q1": "a", "a1": "b"}), "missing (fields: a1, q1)"),
    "a missing field": Bad("x.json", rows({"instruction": "a", "input": ""}), "row 1, output: missing"),
    "an empty field": Bad("x.json", with_(output=""), "row 2, output: empty"),
    "a field with nothing to see": Bad("x.json", with_(output="\u200b\ufeff\x07 "[1:]), "row 2, output: empty"),
    "null": Bad("x.json", with_(output=None), "row 2, output: is null, not a text"),
    "a list for a text": Bad("x.json", with_(output=["b"]), "row 2, output: is a list, not a text"),
    "a number for a system": Bad("x.json", with_(system=1), "row 2, system: is a number, not a text"),
    "no chat": Bad("x.json", rows({"messages": "a"}), "messages: is a text, not a list"),
    "an empty chat": Bad("x.json", rows({"messages": []}), "messages: empty"),
    "an unknown role": Bad("x.json", rows({"messages": [{"role": "me", "content": "a"}]}), "messages[0].role: is 'me'"),
    "no answer": Bad("x.json", rows({"messages": CHAT[:1]}), "there is no answer to learn"),
    "a special token": Bad("x.json", with_(output="b<|im_end|>"), "contains <|im_end|>"),
    "a hidden special token": Bad("x.json", with_(output="b<\ufeff|im_end|>"), "contains <|im_end|>"),
    "half a character": Bad("x.json", r'[{"instruction": "a", "output": "\ud83d"}]', "contains half a character"),
    "half a character as a name": Bad("x.json", r'[{"\ud83d": "a", "b": "c"}]', "missing (fields: b, \\ud83d)"),
    "an escape sequence as a name": Bad("x.json", rows({"\x1b[2J": "a"}), "missing (fields: \\x1b[2J)"),
    # Tables
    "a cell without an end": Bad("x.csv", TABLE + 'a,"b\nc,d\n', "a cell is never closed"),
    "no known heading": Bad("x.csv", "foo,bar\na,b\n", "for example --columns foo,bar"),
    "a heading and no rows": Bad("x.csv", TABLE, "has a heading but no rows"),
    "more cells than headings": Bad("x.csv", TABLE + "a,b,c\n", "3 cells where the heading has 2"),
    "an empty cell": Bad("x.tsv", "问题\t答案\n你是谁\t\n", "row 1 (line 2), 答案: empty"),
    "a million headings": Bad("x.csv", "," * 1_000_000 + "a\na,b\n", "1000001 columns"),
    "a workbook that is text": Bad("x.xlsx", TABLE, "not an XLSX file"),
    "a truncated workbook": Bad("x.xlsx", workbook([["question", "answer"]] * 50)[:2000], "not an XLSX file"),
    "a zip that is no workbook": Bad("x.xlsx", lambda path: zipfile.ZipFile(path, "w").close(), "not an XLSX file"),
    "a workbook without rows": Bad("x.xlsx", workbook([["question", "answer"]]), "has a heading but no rows"),
    "a workbook that unpacks to 300 MB": Bad("x.xlsx", zip_bomb, "unpacks to"),
    "a truncated Parquet file": Bad("x.parquet", cut(parquet), "not a Parquet file"),
    "Parquet with a cell of 64 MB": Bad("x.parquet", parquet_bomb, "MB per row"),
    "Parquet that is text": Bad("x.parquet", TABLE + "a,b\n", "not a Parquet file"),
    # Warnings: the file is fit
    "a row twice": Bad("x.json", rows(ROW, ROW), "duplicate", 0),
    "two answers": Bad("x.json", rows(ROW, ROW | {"output": "我不知道。"}), "two answers", 0),
    "a control character": Bad("x.json", with_(output="a\x00b"), "control character", 0),
    "a lost character": Bad("x.json", with_(output="a\ufffdb"), "lost character", 0),
    "another identity": Bad(
        "x.json",
        rows(*[ROW | {"instruction": str(n)} for n in range(9)], ROW | {"output": "我由阿里云开发。"}),
        "another identity",
        0,
    ),
    "a held-out question": Bad("x.json", with_(instruction="你的出生地是哪里?"), "held-out question", 0),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_one_line_and_2_or_the_named_warning(tmp_path, name):
    bad = FILES[name]
    path = tmp_path / bad.name
    if callable(bad.content):
        bad.content(path)
    else:
        path.write_bytes(bad.content.encode() if isinstance(bad.content, str) else bad.content)
    try:
        said = run(path, *bad.words, work=tmp_path)
    finally:
        if path.is_file() and path.stat().st_size > 1 << 20:
            path.unlink()  # pytest keeps the folders of its last runs
    must_be_one_line(said, bad.code)
    assert bad.says in (said.out if bad.code == 0 else said.err), said.out + said.err


def test_rows_that_max_length_would_cut(tmp_path, official_tokenizer_dir):
    (tmp_path / "model").symlink_to(official_tokenizer_dir)
    (tmp_path / "x.json").write_text(with_(output="字" * 4000))
    said = run(tmp_path / "x.json", work=tmp_path)
    must_be_one_line(said, 0)
    assert "too long" in said.out and "max_length is 2048" in said.out


@pytest.mark.parametrize("place", ["file", "folder"])
def test_what_this_user_may_not_read(tmp_path, place):
    """As another user where this is root, whom nothing is forbidden."""
    user = 65534 if os.geteuid() == 0 else None
    work = Path("/tmp") / f"{tmp_path.parent.name}-{place}-{os.getpid()}"
    work.mkdir()
    try:
        work.chmod(0o777)
        (work / "closed").mkdir()
        path = work / "closed/x.json"
        path.write_text(with_())
        (path if place == "file" else path.parent).chmod(0)
        try:
            said = run(path, "--no-tokens", work=work, user=user)
        except PermissionError:
            pytest.skip("other users may not run this Python")
        must_be_one_line(said)
        assert "cannot be read" in said.err and "who may read it" in said.err
    finally:
        path.parent.chmod(0o755)
        shutil.rmtree(work)


@pytest.mark.parametrize("flags", [[], ["--json"], ["--html", "x.html"], ["--convert", "x.jsonl"]])
@pytest.mark.parametrize("name", [b"\xff\xfe.json", "行\n1.json".encode()])
def test_a_file_s_name_may_be_any_bytes(tmp_path, name, flags):
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(with_(output="") if "--convert" not in flags else with_())
    said = run(path, "--no-tokens", *flags, work=tmp_path)
    must_be_one_line(said, 0 if "--convert" in flags else 2)


@pytest.mark.parametrize("flags", [["--json"], ["--html", "x.html"]])
def test_reports_hold_what_utf_8_cannot_write(tmp_path, flags):
    path = tmp_path / "x.json"
    path.write_text(r'[{"\ud83d": "a"}, {"messages": [{"role": "\ud83d", "content": "a"}]}]')
    must_be_one_line(run(path, "--no-tokens", *flags, work=tmp_path))


def test_parquet_text_that_is_no_utf_8(tmp_path):
    """Parquet says that a column is text, but writers need not keep to it. Found by tests/fuzz."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    broken = pa.array([b"\x80\xff", b"a"]).view(pa.string())
    pq.write_table(pa.table({"question": broken, "answer": ["x", "y"]}), tmp_path / "faq.parquet")
    said = run(tmp_path / "faq.parquet", work=tmp_path)
    must_be_one_line(said)
    assert "not a Parquet file" in said.err
