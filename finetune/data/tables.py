"""Rows from tables: CSV, TSV, XLSX and Parquet files with a column of questions and one of answers; used by reading."""

from __future__ import annotations

import csv
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from common.errors import UserError
from finetune.data.items import Broken, Row

TEXT_SUFFIXES = {".csv", ".tsv"}
SUFFIXES = TEXT_SUFFIXES | {".xlsx", ".parquet"}
# A cell as long as this is a quote that was never closed. In characters.
MAX_CELL = 4 << 20
MAX_LINE = 16 << 20
MAX_COLUMNS = 1000
# Of a row of Parquet, and of a file in a workbook, unpacked; in bytes. A small file can unpack to more than the memory.
MAX_ROW = 16 << 20
MAX_UNPACKED = 256 << 20

# Headings, without case, spaces and punctuation. Where several columns fit, the earlier name in the list is taken.
QUESTIONS = (
    *("instruction", "question", "query", "prompt", "q", "questions", "user", "ask"),
    *(
        "问题",
        "提问",
        "问",
        "用户问题",
        "客户问题",
        "常见问题",
        "标准问题",
        "标准问",
        "用户",
        "指令",
        "题目",
        "咨询内容",
    ),
)
ANSWERS = (
    *("output", "answer", "response", "completion", "a", "answers", "reply", "assistant", "target"),
    *("答案", "回答", "回复", "答", "标准答案", "参考答案", "解答", "答复", "回复内容", "客服回复", "输出", "助手"),
)
INPUTS = ("input", "context", "输入", "补充", "背景")
SYSTEMS = ("system", "systemprompt", "系统提示", "系统提示词")
CHATS = ("messages", "conversations", "conversation")


def read_text(path: Path, encoding: str, columns: tuple[str, str] | None) -> Iterator[Row | Broken]:
    """Rows of a CSV or TSV file. The delimiter is the one that the heading has most of: , ; or tab."""
    csv.field_size_limit(MAX_CELL)
    with path.open(encoding=encoding, newline="") as file:
        try:
            head = file.readline(MAX_LINE)
            delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=head.count)
            file.seek(0)
            reader = csv.reader(_lines(file), delimiter=delimiter, strict=True)
            cells = ((reader.line_num, row) for row in reader)
            yield from _rows(path, cells, columns)
        except csv.Error as error:
            what = str(error)
            if "field larger" in what or "unexpected end" in what:
                what = "a cell has no end"
            yield Broken(
                f"line {reader.line_num}", f"not CSV, {what}", "look for a quote without its partner before it"
            )
        except UnicodeDecodeError:
            # The text layer decodes ahead and does not say where; the bytes do.
            place = _undecodable(path, encoding)
            yield Broken(place, f"not {encoding.upper()} text", "save the file in UTF-8, or run iconv on it")


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of a file; csv.Error at one that is too long to be held: csv itself would hold it before it looks."""
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE and not line.endswith("\n"):
            raise csv.Error(f"a line of more than {MAX_LINE >> 20} million characters")
        yield line


def read_binary(path: Path, columns: tuple[str, str] | None) -> Iterator[Row | Broken]:
    """Rows of an XLSX or Parquet file; of XLSX, the first sheet."""
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is empty; write rows into it, such as those of self_cognition.json")
    if path.suffix.lower() == ".parquet":
        yield from _parquet(path, columns)
        return
    import zipfile

    import openpyxl

    try:
        with zipfile.ZipFile(path) as packed:
            size = max((file.file_size for file in packed.infolist()), default=0)
        if size > MAX_UNPACKED:
            raise UserError(f"{path}: unpacks to {size >> 20} MB; save it as CSV, or in several files")
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        sheet = book.worksheets[0]
        rows = sheet.iter_rows(values_only=True)
        yield from _rows(path, enumerate(([_cell(value) for value in row] for row in rows), 1), columns)
        book.close()
    except UserError:
        raise
    except Exception as error:  # openpyxl raises what zipfile, xml and its own code raise
        words = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not an XLSX file ({words[:120]}); save it anew, or as CSV") from error


def _parquet(path: Path, columns: tuple[str, str] | None) -> Iterator[Row | Broken]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = list(file.schema_arrow.names)
        groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
        size = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
        if size > MAX_ROW:
            raise UserError(f"{path}: {size >> 20} MB a row; no training row is as long, write the texts anew")
        batches = (batch.to_pylist() for batch in file.iter_batches(1024))
        if columns is None and any(_plain(name) in CHATS for name in names):
            for number, row in enumerate(itertools.chain.from_iterable(batches), 1):
                yield Row(number, number, row)
            return
        cells: Iterable[list[Any]] = ([row[name] for name in names] for batch in batches for row in batch)
        numbered = enumerate(([_cell(value) for value in row] for row in cells), 2)
        yield from _rows(path, itertools.chain([(1, names)], numbered), columns)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a Parquet file ({' '.join(str(error).split())[:120]}); write it anew") from error


def _rows(
    path: Path, lines: Iterable[tuple[int, list[str]]], columns: tuple[str, str] | None
) -> Iterator[Row | Broken]:
    """Rows by a table's heading. `lines` are (line number, cells); the first that is not blank is the heading."""
    filled = ((line, cells) for line, cells in lines if any(cell.strip() for cell in cells))
    line, heading = next(filled, (0, []))
    if not heading:
        raise UserError(f"{path}: is empty; write a heading and rows into it: question,answer")
    if len(heading) > MAX_COLUMNS:
        raise UserError(f"{path}: {len(heading)} columns; keep a column of questions and one of answers")
    heading = [cell.removeprefix("\ufeff") for cell in heading]
    places = _places(path, heading, columns)
    headings = {name: heading[at] for name, at in places.items()}
    number = 0
    for line, cells in filled:
        number += 1
        if len(cells) > len(heading) and any(cell.strip() for cell in cells[len(heading) :]):
            what = f"{len(cells)} cells where the heading has {len(heading)}"
            yield Broken(f"line {line}", what, "put quotes around a text with the delimiter in it", number)
            continue
        yield Row(number, line, {name: cells[at] if at < len(cells) else "" for name, at in places.items()}, headings)
    if number == 0:
        raise UserError(f"{path}: has a heading and no rows; write rows below it")


def _places(path: Path, heading: list[str], columns: tuple[str, str] | None) -> dict[str, int]:
    """Which column is which: {"instruction": 0, "output": 2, ...}. UserError when question or answer is not found."""
    names = [_plain(cell) for cell in heading]
    found: dict[str, int] = {}
    if columns:
        for field, wanted in zip(("instruction", "output"), columns, strict=True):
            if wanted in heading:
                found[field] = heading.index(wanted)
            elif _plain(wanted) in names:
                found[field] = names.index(_plain(wanted))
            else:
                raise UserError(f"{path}: no column {wanted}; there are {', '.join(heading)}")
    else:
        for field, known in (("instruction", QUESTIONS), ("output", ANSWERS)):
            name = next((name for name in known if name in names), None)
            if name is None:
                raise UserError(
                    f"{path}: no column looks like the {'question' if field == 'instruction' else 'answer'} "
                    f"(there are {', '.join(heading)[:200]}); name both with --columns QUESTION,ANSWER"
                )
            found[field] = names.index(name)
    if found["instruction"] == found["output"]:
        raise UserError(f"{path}: one column cannot be both question and answer; name two with --columns")
    for field, others in (("input", INPUTS), ("system", SYSTEMS)):
        at = next((names.index(name) for name in others if name in names), None)
        if at is not None and at not in found.values():
            found[field] = at
    return found


def _plain(name: str) -> str:
    """A heading without case, spaces and punctuation: `Q.`, `问题:`, `Question (en)` lose what is beside the word."""
    plain = re.sub(r"\(.*?\)", "", unicodedata.normalize("NFKC", name))
    return re.sub(r"[\W_]+", "", plain).lower()


def _cell(value: Any) -> str:
    """A spreadsheet's value as the text that a person sees: 3.0 is 3."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _undecodable(path: Path, encoding: str) -> str:
    """Where a file stops to be text of that encoding."""
    import codecs

    decoder = codecs.getincrementaldecoder(encoding)()
    done = 0
    with path.open("rb") as file:
        while True:
            raw = file.read(1 << 16)
            held = len(decoder.getstate()[0])
            try:
                decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                return f"byte {done - held + error.start + 1}"
            done += len(raw)
            if not raw:
                return "its end"
