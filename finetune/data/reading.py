"""Reads the rows of a dataset file one by one, without loading the whole file; used by check and convert."""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.i18n import _
from finetune.data import encoding, jsonhints, parquet, tables, workbook
from finetune.data.items import Broken, Note, Remember, Row, forget

__all__ = ["Broken", "Row", "open_checked", "read", "read_rows"]

BINARY = {".xlsx": workbook.read, ".parquet": parquet.read}
CHUNK = 1 << 16  # bytes read at a time; small, because taking a row off the buffer copies the rest of it
# In characters. A longer "row" means a missing quote or bracket, and the search for its end could take all memory.
MAX_ROW = 16 << 20


def open_checked(path: Path) -> encoding.Encoding:
    """The encoding of a file. Raises UserError unless it is a readable text file that is not empty."""
    if not path.exists():
        raise UserError(
            _("{path}: no such file; check the name, or the working folder ({folder})").format(
                path=path, folder=Path().resolve()
            )
        )
    if path.is_dir():
        raise UserError(_("{path}: is a directory; {in_it}").format(path=path, in_it=_in_it(path)))
    if not path.is_file():
        raise UserError(
            _("{path}: not a regular file, and it has to be read more than once; save its rows as a file").format(
                path=path
            )
        )
    try:
        size = path.stat().st_size
        found, head = encoding.of_file(path)
    except OSError as error:
        raise UserError(
            _("{path}: cannot be read ({strerror}); check who may read it").format(path=path, strerror=error.strerror)
        ) from error
    if not head.strip(b"\xef\xbb\xbf\xff\xfe \t\r\n\0") and size <= CHUNK:
        raise _empty(path)
    if found is None and b"\0" in head:
        raise UserError(
            _("{path}: is a binary file; name a text file of the form of self_cognition.json, or .xlsx").format(
                path=path
            )
        )
    return found or encoding.Encoding("utf-8")


def _empty(path: Path) -> UserError:
    return UserError(_("{path}: is empty; write rows into it, such as those of self_cognition.json").format(path=path))


def _in_it(folder: Path) -> str:
    """The remedy for a folder where a file should be; an empty one was probably made by Docker."""
    with contextlib.suppress(OSError):
        if not any(folder.iterdir()):
            return _(
                "it is empty: docker run -v creates a folder if the host has no such file; check the path on the host"
            )
    return _("name the file in it")


def read(path: Path, columns: tuple[str, str] | None = None, note: Remember = forget) -> Iterator[Row | Broken]:
    """The rows of a file. The suffix tells a table; the first character tells a JSON list from JSONL.

    A broken line of JSONL is yielded as Broken, and reading continues. A fault in a JSON list is yielded last: the rows
    after it cannot be told apart.

    Args:
        path: The file.
        columns: The question's and the answer's column of a table; None: guessed.
        note: Called with each guess about the whole file: its encoding, the sheet, ...

    Raises:
        UserError: The file as a whole is unusable.
    """
    suffix = path.suffix.lower()
    if suffix in BINARY and path.is_file():
        if path.stat().st_size == 0:
            raise _empty(path)
        yield from BINARY[suffix](path, columns, note)
        return
    found = open_checked(path)
    if found.guess:
        remedy = _("check that this is what the file says; if not, save it in UTF-8")
        note(Note(_("guessed encoding"), found.guess, remedy))
    if suffix in tables.TEXT_SUFFIXES:
        yield from tables.read_text(path, found.codec, columns, note)
        return
    try:
        text = TextBuffer(path, found.codec)
        first = text.peek()
        if first == "[":
            yield from _json_list(text)
        elif first == "{":
            yield from _jsonl(text)
        else:
            yield Broken(text.place(0), *jsonhints.beginning(first))
    except UnicodeDecodeError:
        yield tables.not_text(path, found.codec)


def read_rows(path: Path, columns: tuple[str, str] | None = None) -> Iterator[Row]:
    """The rows of a file, as `read` gives them. Raises UserError at the first place that cannot be read."""
    for item in read(path, columns):
        if isinstance(item, Broken):
            raise UserError(f"{path}: {item}")
        yield item


class TextBuffer:
    """A buffer of a file's text: text is read in at the end and taken off at the front, and lines are counted."""

    def __init__(self, path: Path, encoding: str = "utf-8") -> None:
        self._file = path.open("rb")
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self.buffer = ""
        self.line = 1  # of the buffer's first character
        self.column = 1
        self.at_end = False

    def fill(self, size: int = CHUNK) -> bool:
        """Read `size` more bytes; False at the end of the file."""
        if self.at_end:
            return False
        raw = self._file.read(size)
        self.buffer += self._decoder.decode(raw, final=not raw)
        if not raw:
            self.at_end = True
            self._file.close()
        return bool(raw)

    def drop(self, count: int) -> None:
        """Remove `count` characters from the front and update line and column."""
        gone = self.buffer[:count]
        breaks = gone.count("\n")
        if breaks:
            self.line += breaks
            self.column = count - gone.rfind("\n")
        else:
            self.column += count
        self.buffer = self.buffer[count:]

    def place(self, offset: int) -> str:
        """The position in the file of a character of the buffer, for a message."""
        before = self.buffer[:offset]
        breaks = before.count("\n")
        column = offset - before.rfind("\n") if breaks else self.column + offset
        return _("line {line}, column {column}").format(line=self.line + breaks, column=column)

    def peek(self) -> str:
        """The next character that is not white space, which stays in the buffer; "" at the end of the file."""
        while True:
            rest = self.buffer.lstrip()
            self.drop(len(self.buffer) - len(rest))
            if rest or not self.fill():
                return rest[:1]


def _json_list(text: TextBuffer) -> Iterator[Row | Broken]:
    """The elements of a JSON array, decoded one at a time by the json module."""
    text.drop(1)
    number = 0
    if text.peek() == "]":
        yield Broken(
            text.place(0), _("the list has no rows"), _("write rows into it, such as those of self_cognition.json")
        )
        return
    while True:
        number += 1
        text.peek()
        line = text.line
        value = _decode(text, number)
        if isinstance(value, Broken):
            yield value
            return
        if number == 1 and jsonhints.is_message(value):
            what = _("found a message of a conversation instead of a row")
            yield _at_line(line, what, _(jsonhints.WRAP), number)
            return
        yield _row(number, line, value)
        mark = text.peek()
        if mark == "]":
            text.drop(1)
            if behind := text.peek():
                remedy = _("remove it, or join the two lists")
                if behind in "/#":
                    remedy = _(jsonhints.NO_COMMENTS)
                yield Broken(text.place(0), _("text after the end of the list"), remedy)
            return
        if mark in ("/", "#"):
            yield Broken(
                text.place(0), _("not JSON, {mark!r} after a row").format(mark=mark), _(jsonhints.NO_COMMENTS), number
            )
            return
        if mark != ",":
            what = (
                _("the list has no end: a ] is missing")
                if not mark
                else _("a comma is missing before {mark!r}").format(mark=mark)
            )
            yield Broken(text.place(0), what, _("check the end of row {number}").format(number=number), number)
            return
        text.drop(1)
        if text.peek() == "]":
            yield Broken(text.place(0), _("a comma before the end of the list"), _("remove the last comma"), number)
            return


def _decode(text: TextBuffer, number: int) -> Any:
    """The value at the front of the buffer, or Broken. More text is read as long as the value may be incomplete."""
    decoder = json.JSONDecoder()
    size = CHUNK
    while True:
        try:
            value, end = decoder.raw_decode(text.buffer)
        except RecursionError:
            return Broken(
                text.place(0), _("nested too deeply"), _("a row should be an object whose values are texts"), number
            )
        except json.JSONDecodeError as error:
            # Is the value broken, or only cut off by the end of the buffer? json reports an open string where it
            # begins, and everything else that is cut off close to the end of the buffer.
            open_ended = error.msg.startswith("Unterminated string") or error.pos >= len(text.buffer) - 16
            if open_ended and len(text.buffer) <= MAX_ROW and text.fill(size):
                size *= 2
                continue
            if open_ended and len(text.buffer) > MAX_ROW:
                what = _("a row of more than {max_row} million characters").format(max_row=MAX_ROW >> 20)
                return Broken(text.place(error.pos), what, _("a closing quote or bracket is missing"), number)
            return Broken(text.place(error.pos), *jsonhints.explain(text.buffer, error), number)
        except ValueError:
            return Broken(text.place(0), *jsonhints.long_number(), number)
        else:
            text.drop(end)
            return value


def _jsonl(text: TextBuffer) -> Iterator[Row | Broken]:
    """The rows of JSONL, one per line; empty lines are skipped."""
    number = 0
    while text.peek():
        number += 1
        while "\n" not in text.buffer and len(text.buffer) <= MAX_ROW and text.fill():
            pass
        end = text.buffer.find("\n")
        if end < 0 and len(text.buffer) > MAX_ROW:
            what = _("a line of more than {max_row} million characters").format(max_row=MAX_ROW >> 20)
            yield _at_line(text.line, what, _("write one row per line"), number)
            return
        end = len(text.buffer) if end < 0 else end
        line = text.buffer[:end]
        try:
            yield _row(number, text.line, json.loads(line))
        except RecursionError:
            yield _at_line(
                text.line, _("nested too deeply"), _("a row should be an object whose values are texts"), number
            )
        except json.JSONDecodeError as error:
            if number == 1 and (spread := _spread(text)):
                yield spread
                return  # each of its lines would be reported
            yield Broken(text.place(error.pos), *jsonhints.explain(text.buffer, error), number)
        except ValueError:
            yield _at_line(text.line, *jsonhints.long_number(), number)
        text.drop(end)


def _at_line(line: int, what: str, remedy: str, number: int) -> Broken:
    """Row `number`, which begins on line `line` and cannot be read."""
    return Broken(_("line {line}").format(line=line), what, remedy, number)


def _row(number: int, line: int, value: Any) -> Row | Broken:
    """A JSON value as a row; Broken if it contains the rows instead."""
    if isinstance(value, dict) and not jsonhints.ROW_NAMES.isdisjoint(value):
        return Row(number, line, value)  # nearly every row
    if jsonhints.is_chat(value):
        return _at_line(line, _("found a list of messages instead of a row"), _(jsonhints.WRAP), number)
    if isinstance(value, dict) and not jsonhints.is_row(value) and (keys := jsonhints.rows_below(value)):
        what = _('the rows are below the key "{keys}"').format(keys=keys)
        return _at_line(line, what, _("write only the list, without the object around it: [{...}, {...}]"), number)
    return Row(number, line, value)


def _spread(text: TextBuffer) -> Broken | None:
    """The fault, if the first line begins an object that spans several lines; None if it does not."""
    while len(text.buffer) <= MAX_ROW and text.fill():
        pass
    try:
        value, end = json.JSONDecoder().raw_decode(text.buffer)
    except (ValueError, RecursionError):
        if text.buffer[: text.buffer.find("\n")].strip() != "{":
            return None
        value, end = None, 0
    if "\n" not in text.buffer[:end] and value is not None:
        return None
    found = _row(1, text.line, value)
    if isinstance(found, Broken):
        return found
    remedy = _("write one row per line, or put all rows into a list: [{...}, {...}]")
    return _at_line(text.line, _("not JSON Lines: an object spans several lines"), remedy, 1)
