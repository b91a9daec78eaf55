"""Reads rows from tables by their heading, and CSV and TSV files; used by reading, workbook and parquet."""

from __future__ import annotations

import contextlib
import csv
import itertools
import re
import shlex
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from common import host
from common.errors import UserError
from common.i18n import N_, _
from finetune.data.items import Broken, Note, Remember, Row

TEXT_SUFFIXES = {".csv", ".tsv"}
MAX_CELL = 4 << 20  # characters; a longer cell means a quote that was never closed
MAX_LINE = 16 << 20
MAX_COLUMNS = 1000
ABOVE = 10  # non-empty lines that are searched for the heading: a title, a date or a note may be above it
SNIFFED = 1 << 20  # characters at the beginning from which the delimiter is determined
SEP = re.compile(r'\ufeff?"?sep=(.)"?\r?\n?', re.IGNORECASE)  # a first line with which Excel names the delimiter

# Headings, without case, spaces and punctuation. If several columns match, the name that comes first here wins.
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
DELIMITERS = {",": N_("a comma"), ";": N_("a semicolon"), "\t": N_("a tab"), "|": N_("a vertical bar")}
CHATS = ("messages", "conversations", "conversation")


def read_text(path: Path, encoding: str, columns: tuple[str, str] | None, note: Remember) -> Iterator[Row | Broken]:
    """The rows of a CSV or TSV file.

    Args:
        path: The file.
        encoding: Its encoding.
        columns: The question's and the answer's column; None: guessed.
        note: Called with guesses about the file.

    Raises:
        UserError: There is no heading, or nothing below it.
    """
    csv.field_size_limit(MAX_CELL)
    with path.open(encoding=encoding, newline="") as file:
        try:
            delimiter, skipped = _dialect(file, path.suffix.lower() == ".tsv", columns)
            reader = csv.reader(_lines(file), delimiter=delimiter, strict=True)
            yield from from_cells(path, _numbered(reader, skipped), columns, note, DELIMITERS.get(delimiter, ""))
        except csv.Error as error:
            what = str(error)
            if "field larger" in what or "unexpected end" in what:
                what = _("a cell is never closed")
            yield Broken(
                _("line {line_num}").format(line_num=reader.line_num + skipped),
                _("not CSV, {what}").format(what=what),
                _("look for an unmatched quote before it"),
            )
        except UnicodeDecodeError:
            yield not_text(path, encoding)


def _numbered(reader: Any, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """(the line on which it begins, cells) of each record, which may span several lines."""
    ended = skipped
    for record in reader:
        yield ended + 1, record
        ended = reader.line_num + skipped


def _dialect(file: TextIO, is_tsv: bool, columns: tuple[str, str] | None) -> tuple[str, int]:
    """(delimiter, lines to skip). Afterwards the file is at the first line of the table.

    The delimiter is the one with which the first lines contain a heading, else the one that most of them contain.
    """
    lines: list[str] = []
    size = 0
    while size < SNIFFED and len(lines) < ABOVE and (line := file.readline(MAX_LINE)):
        lines.append(line)
        size += len(line)
    file.seek(0)
    if lines and (named := SEP.fullmatch(lines[0])):
        file.readline()
        return named[1], 1
    if is_tsv or not lines:
        return "\t", 0
    found = {}
    for delimiter in ",;\t":
        if heading := find_heading(((at, _split(line, delimiter)) for at, line in enumerate(lines)), columns):
            found[delimiter] = heading[0]
    if found:
        return min(found, key=lambda delimiter: (found[delimiter], -lines[found[delimiter]].count(delimiter))), 0
    return max(",;\t", key=lambda delimiter: (sum(delimiter in line for line in lines), lines[0].count(delimiter))), 0


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of a file. Raises csv.Error at a line over MAX_LINE; the csv module would read all of it first."""
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE and not line.endswith("\n"):
            raise csv.Error(_("a line of more than {max_line} million characters").format(max_line=MAX_LINE >> 20))
        yield line


def _split(line: str, delimiter: str) -> list[str]:
    """The cells of a line; empty if it is not valid CSV."""
    with contextlib.suppress(csv.Error):
        return next(csv.reader([line], delimiter=delimiter), [])
    return []


def not_text(path: Path, encoding: str) -> Broken:
    """The first place of a file that is not text in the encoding that was found."""
    remedy = _("save the file in UTF-8, or run iconv on it: iconv -f ENCODING -t UTF-8 FILE > NEW")
    return Broken(_undecodable(path, encoding), _("not {encoding} text").format(encoding=encoding.upper()), remedy)


def from_cells(
    path: Path,
    lines: Iterable[tuple[int, list[Any]]],
    columns: tuple[str, str] | None,
    note: Remember,
    separator: str = "",
) -> Iterator[Row | Broken]:
    """The rows of a table.

    Args:
        path: The file, for messages.
        lines: (line number, cells). The heading is the first of the ABOVE first that names a question and an answer.
        columns: The headings of these two columns; None: guessed.
        note: Called if there is something above the heading.
        separator: The name of the delimiter of a text file, for messages.

    Raises:
        UserError: There is no heading, or nothing below it.
    """
    lines = iter(lines)
    first = beginning(lines)
    if not first:
        raise UserError(_("{path}: is empty; write a heading and rows into it: question,answer").format(path=path))
    found = find_heading(first, columns)
    if found is None:
        # Quote the first line with several cells: a title says nothing about the columns.
        lines_of_cells = [cells for _other, cells in first]
        wide = (n for n, cells in enumerate(lines_of_cells) if sum(map(_filled, cells)) > 1 or len(cells) > MAX_COLUMNS)
        at = next(wide, 0)
        _refuse(path, lines_of_cells[at], lines_of_cells[at + 1 :], columns)
    at, places = found
    above = [cell for _other, cells in first[:at] for cell in cells if _filled(cell)]
    if above:
        what = _("left out what is above the heading: {names}").format(names=", ".join(map(str, above))[:100])
        note(Note(_("title row"), what, _("remove it from the table if it is not needed")))
    heading = first[at][1]
    headings = {name: heading[place] for name, place in places.items()}
    number = 0
    for line, cells in itertools.chain(first[at + 1 :], lines):
        if not any(map(_filled, cells)):
            continue
        number += 1
        if len(cells) > len(heading) and any(map(_filled, cells[len(heading) :])):
            what = _("{count} cells where the heading has {wanted}").format(count=len(cells), wanted=len(heading))
            yield Broken(_("row {row} (line {line})").format(row=number, line=line), what, _too_many(separator), number)
            continue
        data = {name: cells[place] if place < len(cells) else "" for name, place in places.items()}
        yield Row(number, line, data, headings)
    if number == 0:
        raise UserError(_("{path}: has a heading but no rows; write rows below it").format(path=path))


def _too_many(separator: str) -> str:
    """The remedy for a row with more cells than the heading."""
    if not separator:
        return _("remove what is right of the last heading from the row")
    return _("a text in it contains {separator}: put that text in double quotes").format(separator=_(separator))


def beginning(lines: Iterable[tuple[int, list[Any]]]) -> list[tuple[int, list[Any]]]:
    """The first ABOVE lines that are not blank."""
    filled = ((line, cells) for line, cells in lines if any(map(_filled, cells)))
    return list(itertools.islice(filled, ABOVE))


def find_heading(
    lines: Iterable[tuple[int, list[Any]]], columns: tuple[str, str] | None
) -> tuple[int, dict[str, int]] | None:
    """(index of the heading among some lines, its columns as `_places` returns them); None if there is no heading.

    A title, a date or a note has fewer cells than the heading below it. If a line above has as many, it is a heading
    with other names or a row, and the line below is not the heading.
    """
    above = 0  # non-empty cells of the widest line so far
    for at, (_other, cells) in enumerate(lines):
        filled = sum(map(_filled, cells))
        if places := _places(cells, columns):
            return (at, places) if above < filled else None
        above = max(above, filled)
    return None


def _filled(cell: Any) -> bool:
    return bool(cell.strip()) if isinstance(cell, str) else cell is not None


def _places(heading: list[Any], columns: tuple[str, str] | None) -> dict[str, int]:
    """The column of each field: {"instruction": 0, "output": 2, ...}; empty if question or answer is missing."""
    if len(heading) > MAX_COLUMNS:
        return {}
    names = [plain(cell) for cell in heading]
    found: dict[str, int] = {}
    wanted = columns or (None, None)
    for field, name, known in zip(("instruction", "output"), wanted, (QUESTIONS, ANSWERS), strict=True):
        if name is not None:
            at = heading.index(name) if name in heading else names.index(plain(name)) if plain(name) in names else None
        else:
            at = next((names.index(one) for one in known if one in names), None)
        if at is None:
            return {}
        found[field] = at
    if found["instruction"] == found["output"]:
        return {}
    for field, others in (("input", INPUTS), ("system", SYSTEMS)):
        at = next((names.index(name) for name in others if name in names), None)
        if at is not None and at not in found.values():
            found[field] = at
    return found


def _refuse(path: Path, heading: list[Any], below: list[list[Any]], columns: tuple[str, str] | None) -> NoReturn:
    """Raises UserError, which says why a line is not a heading. `below` are the first lines below it."""
    if len(heading) > MAX_COLUMNS:
        raise UserError(
            _("{path}: {count} columns; keep a column of questions and one of answers").format(
                path=path, count=len(heading)
            )
        )
    names, there = [plain(cell) for cell in heading], ", ".join(map(str, heading))[:200]
    for name in columns or ():
        if name not in heading and plain(name) not in names:
            raise UserError(_("{path}: no column {name}; there are {there}").format(path=path, name=name, there=there))
    for role, known in ((N_("question"), QUESTIONS), (N_("answer"), ANSWERS)):
        if not columns and not any(name in names for name in known):
            raise UserError(
                _(
                    "{path}: no column looks like the {role} (there are {there}); name the question's and the "
                    "answer's, for example {option}"
                ).format(path=path, role=_(role), there=there, option=_option(heading, below))
            )
    raise UserError(
        _("{path}: one column cannot be both question and answer; name two with --columns").format(path=path)
    )


def _option(heading: list[Any], below: list[list[Any]]) -> str:
    """An example of --columns with headings of this file: those that are known, else those with most text below them.

    It is in the form of the caller's command, make or the script.
    """
    places = {str(cell).strip(): place for place, cell in enumerate(heading) if _filled(cell)}
    cells = list(places)
    known = [next((cell for cell in cells if plain(cell) in names), None) for names in (QUESTIONS, ANSWERS)]
    others = [cell for cell in cells if cell not in known]
    by_text = sorted(others, key=lambda cell: -_letters(below, places[cell]))
    others = [cell for cell in others if cell in by_text[: known.count(None)]]  # in the order of the file
    pair = [
        each or (others.pop(0) if others else word) for each, word in zip(known, ("QUESTION", "ANSWER"), strict=True)
    ]
    if any("," in each for each in pair):
        pair = ["QUESTION", "ANSWER"]
    names = ",".join(pair)
    option = "--columns " + (names if re.fullmatch(r"[\w,.:-]+", names) else shlex.quote(names))
    return f"ARGS={shlex.quote(option)}" if host.via_make() else option


def _letters(lines: list[list[Any]], place: int) -> int:
    """The letters in a column: a number, a date or an empty column has none, or few."""
    return sum(each.isalpha() for cells in lines if place < len(cells) for each in str(cells[place] or ""))


def plain(name: Any) -> str:
    """A heading without case, spaces, punctuation and brackets; `Q.` and `Question (en)` keep only the word."""
    plain = re.sub(r"\(.*?\)", "", unicodedata.normalize("NFKC", str(name)))
    return re.sub(r"[\W_]+", "", plain).lower()


def _undecodable(path: Path, encoding: str) -> str:
    """The first byte that is not text in an encoding. A reader that decodes ahead does not know its position."""
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
                return _("byte {done}").format(done=done - held + error.start + 1)
            done += len(raw)
            if not raw:
                return _("its end")
