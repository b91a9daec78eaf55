"""What a check of datasets looks at and what it finds, as plain data; made by data/check.py, read by its reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from common.i18n import _
from finetune.data import content

KEPT = 100  # findings of one kind that are kept with their text; all are counted, and all rows are kept by number


@dataclass(frozen=True)
class CheckOptions:
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
        return _("{file}: {where}: {what}; {remedy}").format(
            file=self.file, where=self.where, what=_(self.what), remedy=self.remedy
        )


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

    def add_once(self, finding: Finding, rows: list[int]) -> None:
        """Count one warning for all of `rows`."""
        self.numbers[finding.kind] = rows
        self.findings.append(finding)
        self.warnings += 1
