"""Read the rows of a dataset file one by one, without holding the file in memory; used by check and convert."""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError
from finetune.data import tables
from finetune.data.encoding import detect
from finetune.data.items import Broken, Row

__all__ = ["Broken", "Row", "open_checked", "read"]

CHUNK = 1 << 16  # bytes read at a time: a row is taken off the front of such a buffer, which copies the rest
# No training row is as long as this; a "row" that is, is a missing quote or bracket, and looking for its end could
# take all memory. In characters.
MAX_ROW = 16 << 20
LONG_NUMBER = "a number of more than 4300 digits"


def open_checked(path: Path) -> str:
    """The encoding of a file. UserError unless it is a readable file with text in it."""
    if not path.exists():
        raise UserError(f"{path}: no such file; check the name, or the working folder ({Path().resolve()})")
    if path.is_dir():
        raise UserError(f"{path}: is a directory; {_in_it(path)}")
    if not path.is_file():
        raise UserError(f"{path}: is no ordinary file, and is read more than once; write its rows into one")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(CHUNK)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check who may read it") from error
    if not head.strip(b"\xef\xbb\xbf\xff\xfe \t\r\n\0") and size <= CHUNK:
        raise UserError(f"{path}: is empty; write rows into it, such as those of self_cognition.json")
    encoding = detect(head, size <= CHUNK)
    if encoding is None and b"\0" in head:
        raise UserError(f"{path}: is a binary file; name a text file of the form of self_cognition.json, or .xlsx")
    return encoding or "utf-8"


def _in_it(folder: Path) -> str:
    """What to do about a folder in a file's place; an empty one is mostly Docker's own."""
    with contextlib.suppress(OSError):
        if not any(folder.iterdir()):
            return "it is empty: docker run -v makes one where the host has no such file; check the path on the host"
    return "name the file in it"


def read(path: Path, columns: tuple[str, str] | None = None) -> Iterator[Row | Broken]:
    """The rows of a file: tables by their suffix, JSON lists and JSONL told apart by the first character.

    `columns` names the question's and the answer's column of a table; None: they are guessed. A broken line of JSONL is
    yielded as Broken and reading goes on; a break in a JSON list is the last thing yielded, because nothing behind it
    can be told apart. Raises UserError when the file as a whole is of no use.
    """
    suffix = path.suffix.lower()
    if suffix in tables.SUFFIXES and path.is_file():
        if suffix in tables.TEXT_SUFFIXES:
            yield from tables.read_text(path, open_checked(path), columns)
        else:
            yield from tables.read_binary(path, columns)
        return
    encoding = open_checked(path)
    try:
        text = Text(path, encoding)
        first = text.peek()
        if first == "[":
            yield from _json_list(text)
        elif first == "{":
            yield from _jsonl(text)
        else:
            yield Broken(
                f"line {text.line}, column {text.column}",
                f"not JSON, it begins with {first!r}",
                'write a list of rows: [{"instruction": ..., "input": "", "output": ...}, ...], or name a table .csv',
            )
    except UnicodeDecodeError as error:
        place = f"byte {text.bytes_before + error.start + 1}"
        yield Broken(place, f"not {encoding.upper()} text", "save the file in UTF-8, or run iconv on it")


class Text:
    """A file's text in a buffer that is filled from the front and emptied as rows are taken, with the line count."""

    def __init__(self, path: Path, encoding: str = "utf-8") -> None:
        self._file = path.open("rb")
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self.buffer = ""
        self.line = 1  # of the buffer's first character, from 1
        self.column = 1
        self.bytes_before = 0  # bytes of the file before the chunk that was decoded last
        self._read = 0
        self.at_end = False

    def fill(self, size: int = CHUNK) -> bool:
        """Read on; False at the end of the file."""
        if self.at_end:
            return False
        raw = self._file.read(size)
        # Bytes that the decoder still holds from the chunk before belong to this one's error positions.
        held = len(self._decoder.getstate()[0])
        self.bytes_before = self._read - held
        self._read += len(raw)
        self.buffer += self._decoder.decode(raw, final=not raw)
        if not raw:
            self.at_end = True
            self._file.close()
        return bool(raw)

    def drop(self, count: int) -> None:
        """Take `count` characters from the front, keeping line and column of what is first then."""
        gone = self.buffer[:count]
        breaks = gone.count("\n")
        if breaks:
            self.line += breaks
            self.column = count - gone.rfind("\n")
        else:
            self.column += count
        self.buffer = self.buffer[count:]

    def place(self, offset: int) -> str:
        """Where a character of the buffer stands in the file, for a message."""
        before = self.buffer[:offset]
        breaks = before.count("\n")
        column = offset - before.rfind("\n") if breaks else self.column + offset
        return f"line {self.line + breaks}, column {column}"

    def peek(self) -> str:
        """The next character that is no white space, left in place; '' at the end of the file."""
        while True:
            rest = self.buffer.lstrip()
            self.drop(len(self.buffer) - len(rest))
            if rest or not self.fill():
                return rest[:1]


def _json_list(text: Text) -> Iterator[Row | Broken]:
    """The elements of one JSON array, decoded one at a time by json's own scanner."""
    text.drop(1)
    number = 0
    if text.peek() == "]":
        yield Broken(text.place(0), "the list has no rows", "write rows into it, such as those of self_cognition.json")
        return
    while True:
        number += 1
        text.peek()
        line = text.line
        value = _decode(text, number)
        if isinstance(value, Broken):
            yield value
            return
        yield Row(number, line, value)
        mark = text.peek()
        if mark == "]":
            text.drop(1)
            if text.peek():
                place = text.place(0)
                yield Broken(place, "text behind the end of the list", "remove it, or join the two lists")
            return
        if mark != ",":
            what = "the list has no end, a ] is missing" if not mark else f"a comma is missing before {mark!r}"
            yield Broken(text.place(0), what, f"look at the end of row {number}", number)
            return
        text.drop(1)
        if text.peek() == "]":
            yield Broken(text.place(0), "a comma before the end of the list", "remove the last comma", number)
            return


def _decode(text: Text, number: int) -> Any:
    """The value at the front of the buffer, read on for as long as it may only be incomplete; or Broken."""
    decoder = json.JSONDecoder()
    size = CHUNK
    while True:
        try:
            value, end = decoder.raw_decode(text.buffer)
        except RecursionError:
            return Broken(text.place(0), "nested too deeply", "a row is an object of texts", number)
        except json.JSONDecodeError as error:
            # Cut off by the end of the buffer, or really broken? An open string is told at its beginning, all else
            # close to where the buffer ends.
            open_ended = error.msg.startswith("Unterminated string") or error.pos >= len(text.buffer) - 16
            if open_ended and len(text.buffer) <= MAX_ROW and text.fill(size):
                size *= 2
                continue
            if open_ended and len(text.buffer) > MAX_ROW:
                what = f"a row of more than {MAX_ROW >> 20} million characters"
                return Broken(text.place(error.pos), what, "a closing quote or bracket is missing", number)
            return Broken(text.place(error.pos), f"not JSON, {_words(error.msg)}", _hint(text, error), number)
        except ValueError:  # Python's own limit
            return Broken(text.place(0), LONG_NUMBER, "put quotes around it", number)
        else:
            text.drop(end)
            return value


def _jsonl(text: Text) -> Iterator[Row | Broken]:
    """One object a line; empty lines are passed over."""
    number = 0
    while text.peek():
        number += 1
        while "\n" not in text.buffer and len(text.buffer) <= MAX_ROW and text.fill():
            pass
        end = text.buffer.find("\n")
        if end < 0 and len(text.buffer) > MAX_ROW:
            what = f"a line of more than {MAX_ROW >> 20} million characters"
            yield Broken(f"line {text.line}", what, "write one row a line", number)
            return
        end = len(text.buffer) if end < 0 else end
        line = text.buffer[:end]
        try:
            yield Row(number, text.line, json.loads(line))
        except RecursionError:
            yield Broken(f"line {text.line}", "nested too deeply", "a row is an object of texts", number)
        except json.JSONDecodeError as error:
            if number == 1 and line.rstrip() in ("{", "{}{"):
                remedy = "one row a line, or put all rows into a list: [{...}, {...}]"
            else:
                remedy = _hint(text, error)
            yield Broken(text.place(error.pos), f"not JSON, {_words(error.msg)}", remedy, number)
            if number == 1 and line.strip() == "{":
                return  # a pretty-printed object; each of its lines would be reported
        except ValueError:  # Python's own limit
            yield Broken(f"line {text.line}", LONG_NUMBER, "put quotes around it", number)
        text.drop(end)


def _words(message: str) -> str:
    """json's message as part of a sentence."""
    return message[:1].lower() + message[1:]


def _hint(text: Text, error: json.JSONDecodeError) -> str:
    """What to look at, for the mistakes that hand-written JSON usually has."""
    near = text.buffer[max(0, error.pos - 2) : error.pos + 2]
    here = text.buffer[error.pos : error.pos + 1]
    if error.msg.startswith("Unterminated string"):
        return "a closing quote is missing"
    if error.msg.startswith("Invalid control character"):
        return r"write a line break in a text as \n"
    if error.msg.startswith("Invalid \\escape"):
        return r"write a backslash as \\"
    if any(mark in near for mark in "“”‘’"):
        return 'use straight quotes "'
    if any(mark in near for mark in "\uff0c\uff1a"):
        return "use the ASCII comma and colon outside of texts"
    if "'" in near:
        return 'use double quotes "'
    if here in "}]" and "," in text.buffer[max(0, error.pos - 80) : error.pos]:
        return "remove the comma before it"
    return "look at this place and just before it"
