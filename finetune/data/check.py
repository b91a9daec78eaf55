"""Find what is wrong with datasets before a model is loaded; check-data and the training scripts call it."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
from finetune.data import content, tokens
from finetune.data.items import Broken, Note, Row
from finetune.data.reading import open_checked, read
from finetune.data.rows import faults
from finetune.data.source import Source, parse

BATCH = 512  # rows whose tokens are counted together
KEPT = 100  # findings of one kind that are kept with their text; all are counted, and all rows are kept by number
# Rows whose tokens are counted. Of a larger file every n-th is, and besides every row that could be too long: a token
# is at least a byte, so that most rows need no counting to be known as short enough.
COUNTED = 40_000
NAMED = 10  # placeholders that are kept by name
MAX_FAULTS = 10_000  # after so many broken rows, nobody reads on
DEEPEST = 32  # levels of lists and objects in a row; tools have some ten


@dataclass(frozen=True)
class Options:
    """What is looked at besides the rows themselves."""

    columns: tuple[str, str] | None = None  # question and answer column of a table; None: guessed
    model_dir: Path | None = None  # where the tokenizer is; None: tokens are not counted
    system: str | None = None  # the system prompt of rows without one
    max_length: int = 0  # in tokens; 0: no row is too long
    heldout: frozenset[str] = frozenset()  # questions that verify asks, by content.question_key
    progress: Callable[[int, int], None] | None = None  # called with (bytes read, bytes in all)


@dataclass(frozen=True)
class Finding:
    """One fault and its place. `row` is 0 for the file as a whole; `where` is `row 3, output` or `line 3, column 8`."""

    file: str
    row: int
    where: str
    kind: str
    what: str
    remedy: str
    error: bool = True

    def __post_init__(self) -> None:
        for name in ("where", "what"):  # they hold names out of the file
            object.__setattr__(self, name, content.printable(getattr(self, name)))

    def __str__(self) -> str:
        return f"{self.file}: {self.where}: {self.what}; {self.remedy}"


@dataclass
class FileReport:
    """What was found in one file. `lengths` are tokens of rows (of all, or of a sample when `sampled`)."""

    file: str
    rows: int = 0
    encoding: str = ""
    findings: list[Finding] = field(default_factory=list)
    numbers: dict[str, list[int]] = field(default_factory=dict)  # kind -> the rows it was found in
    errors: int = 0
    warnings: int = 0
    lengths: list[int] = field(default_factory=list)
    sampled: bool = False
    max_length: int = 0
    placeholders: dict[str, int] = field(default_factory=dict)  # the most frequent ones -> rows
    plain: bool = True  # ms-swift reads the file as it is, without --convert

    def add(self, finding: Finding) -> None:
        """Count a finding, and keep it while there are few of its kind."""
        rows = self.numbers.setdefault(finding.kind, [])
        if len(rows) < KEPT:
            self.findings.append(finding)
        rows.append(finding.row)
        if finding.error:
            self.errors += 1
        else:
            self.warnings += 1


def check_file(
    path: Path,
    name: str | None = None,
    options: Options | None = None,
    keep: Callable[[list[dict[str, Any]], Any], None] | None = None,
) -> FileReport:
    """Check one file. `keep` is called with (messages, tools) of every row that has no error, in order.

    UserError when the file is of no use as a whole (missing, empty, a directory, binary).
    """
    return _Check(path, name or str(path), options or Options(), keep).run()


class _Check:
    """One pass over one file."""

    def __init__(
        self, path: Path, name: str, options: Options, keep: Callable[[list[dict[str, Any]], Any], None] | None
    ) -> None:
        self.path, self.options, self.keep = path, options, keep
        self.report = FileReport(content.printable(name), max_length=options.max_length)
        self.contents = content.Contents(options.heldout)
        self.counter = tokens.Counter(options.model_dir, options.system) if options.model_dir else None
        self.waiting: list[tuple[int, list[dict[str, Any]], Any]] = []
        self.every = 1  # every n-th row's tokens are counted
        self.shapes: set[Any] = set()

    def run(self) -> FileReport:
        """All rows, then what only all of them show."""
        report = self.report
        size = self.path.stat().st_size if self.path.exists() else 0
        for item in read(self.path, self.options.columns, self.note):
            if isinstance(item, Broken):
                report.add(Finding(report.file, item.row or 0, item.where, "broken", item.what, item.remedy))
            else:
                self.row(item)
            if report.rows % 2048 == 0 and self.options.progress:
                self.options.progress(min(report.rows * self.average(size), size), size)
            if report.errors >= MAX_FAULTS:
                break
        self.count()
        for remark in self.contents.finish():
            self.remark(remark)
        if self.options.progress:
            self.options.progress(size, size)
        report.placeholders = dict(self.contents.placeholders.most_common(NAMED))
        report.encoding = self.encoding()
        report.plain = self.plain()
        return report

    def note(self, note: Note) -> None:
        """Something about the file as a whole, as a warning."""
        self.report.add(Finding(self.report.file, 0, "the file", note.kind, note.what, note.remedy, error=False))

    def row(self, row: Row) -> None:
        """One row: its fields, its text, its length."""
        try:
            self.look(row)
        except RecursionError:
            place = f"row {row.number}"
            what, remedy = "nested too deeply", "a row is an object of texts"
            self.report.add(Finding(self.report.file, row.number, place, "unfit", what, remedy))

    def look(self, row: Row) -> None:
        """`row`, without a guard against what is nested deeper than Python can follow."""
        report = self.report
        report.rows += 1
        errors = report.errors
        for fault in faults(row.data):
            field_name = row.names.get(fault.field, fault.field)
            where = f"row {row.number}, {field_name}" if field_name else f"row {row.number}"
            report.add(Finding(report.file, row.number, where, fault.kind, fault.what, fault.remedy))
        if report.errors > errors:
            return
        from qwen2.chat import standard_row

        try:
            messages, tools = standard_row(row.data)
        except ValueError as error:
            what = str(error).removeprefix("a row ")
            report.add(
                Finding(report.file, row.number, f"row {row.number}", "unfit", what, "mend it, or remove the row")
            )
            return
        shape = _shape(row.data) if tools or len(self.shapes) < 2 else None
        for remark in self.contents.look(row.number, messages):
            self.remark(remark, row)
        if report.errors > errors:
            return
        if len(self.shapes) < 2:
            self.shapes.add(shape)
        if self.keep:
            self.keep(messages, tools)
        if self.counter:
            self.length(row.number, messages, tools)

    def remark(self, remark: content.Remark, row: Row | None = None) -> None:
        """A remark of `content` as a finding."""
        name = row.names.get(remark.field, remark.field) if row else remark.field
        where = f"row {remark.row}, {name}" if name else f"row {remark.row}"
        self.report.add(
            Finding(self.report.file, remark.row, where, remark.kind, remark.what, remark.remedy, remark.error)
        )

    def length(self, number: int, messages: list[dict[str, Any]], tools: Any) -> None:
        """Put a row in line for counting, unless the file is long and the row is surely short enough."""
        if self.report.rows > COUNTED * self.every:
            self.every *= 2
            self.report.sampled = True
            self.report.lengths = self.report.lengths[::2]
        if number % self.every == 0 or self.may_be_long(messages, tools):
            self.waiting.append((number, messages, tools))
            if len(self.waiting) >= BATCH:
                self.count()

    def may_be_long(self, messages: list[dict[str, Any]], tools: Any) -> bool:
        """Whether a row may have more than max_length tokens. No token is shorter than a byte of normalised text."""
        if not self.options.max_length:
            return False
        if tools:
            return True
        texts = [str(message.get("content")) for message in messages]
        size = sum(len(text.encode("utf-8", "surrogatepass")) + 40 for text in texts)  # 40: the template's marks
        if size + len((self.options.system or "x" * 80).encode()) <= self.options.max_length:
            # Normalising may lengthen a text, though hardly any text is not normalised.
            return not all(unicodedata.is_normalized("NFC", text) for text in texts)
        return True

    def count(self) -> None:
        """Count the tokens of the rows in line."""
        if not self.waiting or self.counter is None:
            return
        limit = self.options.max_length
        counts = self.counter.count([(messages, tools) for _, messages, tools in self.waiting])
        for (number, _, _), length in zip(self.waiting, counts, strict=True):
            if number % self.every == 0 or not self.report.sampled:
                self.report.lengths.append(length)
            if limit and length > limit:
                what = f"has {length} tokens, and max_length is {limit}, so the training leaves it out"
                where = f"row {number}"
                finding = Finding(
                    self.report.file, number, where, "too long", what, "shorten it, or raise --max_length", error=False
                )
                self.report.add(finding)
        self.waiting.clear()

    def average(self, size: int) -> int:
        """Bytes of a row, for the progress bar; the reader does not say how far it is."""
        if not hasattr(self, "_average"):
            with self.path.open("rb") as file:
                head = file.read(1 << 20)
            lines = max(head.count(b'"output"'), head.count(b"\n"), 1)
            self._average = max(1, len(head) // lines)
        return self._average

    def encoding(self) -> str:
        """The file's encoding, or its kind where it is no text."""
        suffix = self.path.suffix.lower()
        return suffix[1:] if suffix in (".xlsx", ".parquet") else open_checked(self.path).codec

    def plain(self) -> bool:
        """Whether ms-swift reads the file as it is: JSON in UTF-8 without a mark, all rows of one form."""
        return (
            self.path.suffix.lower() in (".json", ".jsonl")
            and self.report.encoding == "utf-8"
            and len(self.shapes) <= 1
        )


def _shape(value: Any, depth: int = 0) -> Any:
    """The form of a row: names and types. Rows of several forms make pyarrow, under ms-swift, stop or mix them up.

    RecursionError where it is nested deeper than any row of a dataset.
    """
    if depth > DEEPEST:
        raise RecursionError
    if isinstance(value, dict):
        if all(type(item) is str for item in value.values()):
            return tuple(sorted(value))  # the usual row, in a third of the time
        return tuple((key, _shape(item, depth + 1)) for key, item in sorted(value.items()))
    if isinstance(value, list):
        return ("list", frozenset(_shape(item, depth + 1) for item in value))
    return type(value).__name__


def require(
    specs: Iterable[str], base: Path | None = None, options: Options | None = None
) -> list[tuple[Source, FileReport | None]]:
    """Check every --dataset argument; a hub dataset is parsed only, and has no report.

    Raises UserError with the first error and how many more there are. Warnings are in the reports.
    """
    checked: list[tuple[Source, FileReport | None]] = []
    for spec in specs:
        source = parse(spec, base)
        report = check_file(source.path, None, options) if source.path else None
        if report and report.errors:
            first = next(finding for finding in report.findings if finding.error)
            more = report.errors - 1
            rest = f" (and {more} more errors: check-data {source.path})" if more else ""
            raise UserError(f"{first}{rest}")
        checked.append((source, report))
    return checked


def require_readable(path: Path) -> None:
    """Raise UserError when a JSON file cannot be parsed; what its rows hold is not looked at, and other files pass."""
    if path.is_dir() or path.suffix.lower() not in (".json", ".jsonl"):
        return
    for item in read(path):
        if isinstance(item, Broken):
            raise UserError(f"{path}: {item}")


def in_one_line(reports: Iterable[FileReport]) -> str:
    """Rows, tokens and warnings of checked files in one line."""
    found = list(reports)
    parts = [f"{sum(report.rows for report in found)} rows"]
    lengths = [length for report in found for length in report.lengths]
    if lengths:
        parts.append(f"{min(lengths)} to {max(lengths)} tokens")
    kinds: Counter[str] = Counter()
    for report in found:
        told = {finding.kind for finding in report.findings if finding.error or not finding.row}
        kinds.update({kind: len(rows) for kind, rows in report.numbers.items() if kind not in told})
    names = list(dict.fromkeys(name for report in found for name in report.placeholders))[:5]
    warnings = [finding.what for report in found for finding in report.findings if not (finding.row or finding.error)]
    for kind, count in kinds.most_common():
        warnings.append(f"{count} {kind}" + (f" ({', '.join(names)})" if kind == "placeholder" else ""))
    if warnings:
        parts.append(f"warnings: {', '.join(warnings)} (check-data lists them)")
    return ", ".join(parts)


def default_heldout() -> frozenset[str]:
    """The questions that verify asks, from the workspace's files, by `question_key`; none where there are no files."""
    from finetune.verify import config
    from finetune.verify.questions import read as read_questions

    try:
        folder = config.default_path().parent.parent / "questions"
        found = [question for path in sorted(folder.glob("*.yaml")) for question in read_questions(path).all()]
    except UserError:
        return frozenset()
    return frozenset(content.question_key(question.text) for question in found)
