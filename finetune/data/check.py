"""Checks dataset files before a model is loaded; check-data and the training scripts call it."""

from __future__ import annotations

import bisect
import shlex
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from common import host
from common.errors import UserError
from common.i18n import _
from finetune.data import content, rows, tokens
from finetune.data.content import Remark
from finetune.data.findings import CheckOptions, FileReport, Finding
from finetune.data.items import Broken, Note, Row
from finetune.data.plain import is_plain, shape_of
from finetune.data.preference import PREFERENCE, Other, other_training
from finetune.data.reading import open_checked, read, read_rows
from finetune.data.source import DatasetSource, parse
from qwen2.rows import KNOWN

BATCH = 512  # rows whose tokens are counted together
# Tokens are counted for up to this many rows. In a larger file, they are counted for every n-th row and for each row
# that may be too long. A token is at least one byte, so most rows are known to be short enough without counting.
COUNTED = 40_000
NAMED = 10  # the most frequent placeholders, which the report names
MAX_FAULTS = 10_000  # errors after which the check stops: nobody reads a longer list
# A row with no other fields is meant for sft; other_training() need not look at it.
KNOWN_AS_SFT = KNOWN - {"text", "content"}


def check_file(
    path: Path,
    name: str | None = None,
    options: CheckOptions | None = None,
    keep: Callable[[list[dict[str, Any]], Any], None] | None = None,
) -> FileReport:
    """Check one file.

    Args:
        path: The file.
        name: Its name in messages; None: the path.
        options: What is checked; None: the defaults.
        keep: Called with (messages, tools) of each row without an error, in the order of the file.

    Raises:
        UserError: The file as a whole is unusable (missing, empty, a directory, binary).
    """
    return _Check(path, name or str(path), options or CheckOptions(), keep).run()


class _Check:
    """One pass over one file."""

    def __init__(
        self, path: Path, name: str, options: CheckOptions, keep: Callable[[list[dict[str, Any]], Any], None] | None
    ) -> None:
        self.path, self.options, self.keep = path, options, keep
        self.report = FileReport(content.printable(name), max_length=options.max_length)
        self.contents = content.Contents(options.heldout)
        self.counter = tokens.Counter(options.model_dir, options.system) if options.model_dir else None
        self.waiting: list[tuple[int, list[dict[str, Any]], Any]] = []
        self.every = 1  # tokens are counted for every n-th row
        self.shapes: set[Any] = set()
        self.offsets: list[tuple[int, int]] = []  # (row, line - row) in a table, for each row where it changes
        self.odd = False  # whether ms-swift reads some row differently from the fast lane
        self.unused: dict[str, list[int]] = {}  # field -> the rows in which it is not empty

    def run(self) -> FileReport:
        """Check each row, then the file as a whole."""
        report = self.report
        size = self.path.stat().st_size if self.path.exists() else 0
        for item in read(self.path, self.options.columns, self.note):
            if isinstance(item, Broken):
                report.add(Finding(report.file, item.row or 0, item.where, "broken", item.what, item.remedy))
            else:
                self.row(item)
            if report.rows % 2048 == 0 and self.options.progress:
                self.options.progress(min(report.rows * self.average, size), size)
            if report.errors >= MAX_FAULTS:
                break
        self.count()
        for remark in self.contents.finish():
            self.add(None, remark)
        self.finish_unused()
        if self.options.progress:
            self.options.progress(size, size)
        report.placeholders = dict(self.contents.placeholders.most_common(NAMED))
        report.encoding = self.encoding()
        report.plain = self.plain()
        return report

    def note(self, note: Note) -> None:
        """Add a warning about the file as a whole."""
        self.report.add(Finding(self.report.file, 0, _("the file"), note.kind, note.what, note.remedy, error=False))

    def row(self, row: Row) -> None:
        """Check one row: its fields, its texts, its length."""
        try:
            self.look(row)
        except RecursionError:
            self.tell(
                row,
                "",
                _("unfit"),
                _("nested too deeply"),
                _("a row should be an object whose values are texts"),
                error=True,
            )

    def look(self, row: Row) -> None:
        """Check one row. Raises RecursionError if it is nested too deeply."""
        report = self.report
        report.rows += 1
        if row.names and self.path.suffix.lower() != ".parquet":  # rows of Parquet have no lines
            offset = row.line - row.number
            if not self.offsets or self.offsets[-1][1] != offset:
                self.offsets.append((row.number, offset))
        errors = report.errors
        data = row.data
        if isinstance(data, dict) and not data.keys() <= KNOWN_AS_SFT and (other := other_training(data)):
            data = self.other(row, other)
            if data is None:
                return
        looked = rows.look(data)
        for fault in looked.faults:
            self.tell(row, fault.field, fault.kind, fault.what, fault.remedy, error=True)
        if looked.faults:
            return
        messages, tools = looked.messages, looked.tools
        self.form(row.data, messages, tools)
        for remark in self.contents.look(row.number, messages, tools):
            self.add(row, remark)
        if report.errors > errors:
            return
        self.say(row, data, messages)
        if self.keep:
            self.keep(messages, tools)
        if self.counter:
            self.length(row.number, messages, tools)

    def other(self, row: Row, other: Other) -> dict[str, Any] | None:
        """Report a row for another kind of training. Returns the row that --convert writes instead, None if none."""
        if self.keep and other.good is not None:
            what = _("is {what}; its good answer is kept").format(what=other.what)
            self.tell(row, "", _(other.kind), what, _("train on both with {command}").format(command=other.command))
            return other.good
        keeps = _(", or keep the good answers with --convert OUT") if other.kind == PREFERENCE else ""
        remedy = _("train on it with {command} --model $MODEL_DIR --dataset {shlex}{keeps}").format(
            command=other.command, shlex=shlex.quote(str(self.path)), keeps=keeps
        )
        self.tell(row, "", _(other.kind), _("is {what}").format(what=other.what), remedy, error=True)
        return None

    def form(self, data: Any, messages: list[dict[str, Any]], tools: Any) -> None:
        """Record the row's form, unless it is already clear that ms-swift cannot read the file as it is."""
        if tools or len(self.shapes) < 2 or not all(type(message["content"]) is str for message in messages):
            shape = shape_of(data)  # also raises RecursionError for a row that is nested too deeply
            if len(self.shapes) < 2 and shape not in self.shapes:
                self.shapes.add(shape)
                self.odd = self.odd or not is_plain(shape)

    def say(self, row: Row, data: dict[str, Any], messages: list[dict[str, Any]]) -> None:
        """Report what the training does with a valid row that its author may not expect."""
        for name in rows.not_used(data):
            self.unused.setdefault(name, []).append(row.number)
        if place := rows.joined(data, messages):
            what = _(
                "follows a message of the same role; both are joined without a space or a line break, as in ms-swift"
            )
            self.tell(row, place, _("turns joined"), what, _("write one message, or end the first with a line break"))
        if [1 for message in messages if "loss_scale" in message and message["loss_scale"] not in (0, 1)]:
            what = _("has a loss_scale other than 0 and 1, which counts as 1")
            remedy = _("write 0 or 1, or train with ENGINE=swift and --is_binary_loss_scale false")
            self.tell(row, "", "loss_scale", what, remedy)

    def finish_unused(self) -> None:
        """Add one warning for each field that is not trained on, with the rows that have it."""
        for name, numbers in self.unused.items():
            place, count = self.place(numbers[0], name), len(numbers)
            what = (
                _("is not trained on ({count} row)") if count == 1 else _("is not trained on ({count} rows)")
            ).format(count=count)
            finding = Finding(
                self.report.file, numbers[0], place,
                _("not used: {content}").format(content=content.printable(name)), what,
                _("move it into the answer if it should be learned, else leave it"), error=False,
            )  # fmt: skip
            self.report.add_once(finding, numbers)

    def place(self, number: int, name: str = "") -> str:
        """The position of a row, and of its field `name`. In a table, it includes the line that a spreadsheet shows."""
        at = bisect.bisect(self.offsets, (number, sys.maxsize)) - 1
        where = _("row {row}").format(row=number)
        if at >= 0:
            where = _("row {row} (line {line})").format(row=number, line=number + self.offsets[at][1])
        return _("{where}, {name}").format(where=where, name=name) if name else where

    def tell(self, row: Row, field: str, kind: str, what: str, remedy: str, error: bool = False) -> None:
        """Report something about a row; the parameters are those of Remark, `field` "" for the whole row."""
        self.add(row, Remark(row.number, field, kind, what, remedy, error))

    def add(self, row: Row | None, remark: Remark) -> None:
        """Add a remark as a finding; a table's field gets the name of its column."""
        name = row.names.get(remark.field, remark.field) if row else remark.field
        where = self.place(remark.row, name)
        self.report.add(
            Finding(self.report.file, remark.row, where, remark.kind, remark.what, remark.remedy, remark.error)
        )

    def length(self, number: int, messages: list[dict[str, Any]], tools: Any) -> None:
        """Queue a row for counting, unless the file is long and the row is certainly short enough."""
        if self.report.rows > COUNTED * self.every:
            self.every *= 2
            self.report.sampled = True
            self.report.lengths = self.report.lengths[::2]
        if number % self.every == 0 or self.may_be_long(messages, tools):
            self.waiting.append((number, messages, tools))
            if len(self.waiting) >= BATCH:
                self.count()

    def may_be_long(self, messages: list[dict[str, Any]], tools: Any) -> bool:
        """Whether a row may have more than max_length tokens. A token is at least one byte of the normalised text."""
        if not self.options.max_length:
            return False
        if tools:
            return True
        texts = [str(message.get("content")) for message in messages]
        size = sum(len(text.encode("utf-8", "surrogatepass")) + 40 for text in texts)  # 40 for the template's marks
        if size + len((self.options.system or "x" * 80).encode()) <= self.options.max_length:
            # NFC normalisation can lengthen a text. Almost all texts are normalised already.
            return not all(unicodedata.is_normalized("NFC", text) for text in texts)
        return True

    def count(self) -> None:
        """Count the tokens of the queued rows."""
        if not self.waiting or self.counter is None:
            return
        limit = self.options.max_length
        counts = self.counter.count([(messages, tools) for _other, messages, tools in self.waiting])
        for (number, _messages, _tools), length in zip(self.waiting, counts, strict=True):
            if number % self.every == 0 or not self.report.sampled:
                self.report.lengths.append(length)
            if limit and length > limit:
                what = _("has {length} tokens, and max_length is {limit}, so the training leaves it out").format(
                    length=length, limit=limit
                )
                self.add(None, Remark(number, "", _("too long"), what, _("shorten it, or raise --max_length")))
        self.waiting.clear()

    @cached_property
    def average(self) -> int:
        """Bytes per row, estimated for the progress bar: the reader does not report its position."""
        with self.path.open("rb") as file:
            head = file.read(1 << 20)
        lines = max(head.count(b'"output"'), head.count(b"\n"), 1)
        return max(1, len(head) // lines)

    def encoding(self) -> str:
        """The file's encoding; the file type for formats that are not text."""
        suffix = self.path.suffix.lower()
        return suffix[1:] if suffix in (".xlsx", ".parquet") else open_checked(self.path).codec

    def plain(self) -> bool:
        """Whether ms-swift reads the file as it is: JSON in UTF-8 without a byte order mark, all rows of one form."""
        return (
            self.path.suffix.lower() in (".json", ".jsonl")
            and self.report.encoding == "utf-8"
            and len(self.shapes) <= 1
            and not self.odd
        )


def require(
    specs: Iterable[str], base: Path | None = None, options: CheckOptions | None = None
) -> list[tuple[DatasetSource, FileReport | None]]:
    """Check every --dataset argument.

    Args:
        specs: The arguments.
        base: The folder of relative file names; None: the working folder.
        options: What is checked; None: the defaults.

    Returns:
        Each argument with its report, which contains the warnings. A hub dataset is only parsed and has no report.

    Raises:
        UserError: A file has errors. The message quotes the first and counts the others.
    """
    checked: list[tuple[DatasetSource, FileReport | None]] = []
    for spec in specs:
        source = parse(spec, base)
        report = check_file(source.path, None, options) if source.path else None
        if report and report.errors:
            line = str(next(finding for finding in report.findings if finding.error))
            if report.errors > 1:
                command = host.call("check-data", dataset=source.path)
                line += _(" (the first of {count} errors: {command})").format(count=report.errors, command=command)
            raise UserError(line)
        checked.append((source, report))
    return checked


def require_readable(path: Path) -> None:
    """Raises UserError if a JSON file cannot be parsed. The content of rows is not checked, nor are other files."""
    if path.is_dir() or path.suffix.lower() not in (".json", ".jsonl"):
        return
    for _row in read_rows(path):
        pass


def in_one_line(reports: Iterable[FileReport]) -> str:
    """A one-line summary of checked files: rows, tokens and warnings."""
    found = list(reports)
    parts = [_("{count} rows").format(count=sum(report.rows for report in found))]
    lengths = [length for report in found for length in report.lengths]
    if lengths:
        parts.append(_("{shortest} to {longest} tokens").format(shortest=min(lengths), longest=max(lengths)))
    kinds: Counter[str] = Counter()
    for report in found:
        told = {finding.kind for finding in report.findings if finding.error or not finding.row}
        kinds.update({kind: len(rows) for kind, rows in report.numbers.items() if kind not in told})
    names = list(dict.fromkeys(name for report in found for name in report.placeholders))[:5]
    warnings = [finding.what for report in found for finding in report.findings if not (finding.row or finding.error)]
    for kind, count in kinds.most_common():
        warnings.append(f"{count} {kind}" + (f" ({', '.join(names)})" if kind == "placeholder" else ""))
    if warnings:
        parts.append(_("warnings: {names} (check-data lists them)").format(names=_(", ").join(warnings)))
    return _(", ").join(parts)


def default_heldout() -> frozenset[str]:
    """The `question_key` of each question in verify's configured files; empty if there are no such files."""
    from finetune.verify import config
    from finetune.verify.questions import read as read_questions

    try:
        configured = config.read(config.default_path())
        paths = [*configured.questions, *configured.questions_english]
        found = [question for path in paths for question in read_questions(path).all()]
    except UserError:
        return frozenset()
    return frozenset(content.question_key(question.text) for question in found)
