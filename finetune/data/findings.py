"""Options and results of a dataset check, as plain data; data/check.py fills them in, the reports show them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from common.i18n import _
from finetune.data import content

KEPT = 100  # findings of one kind that are kept with their text; beyond it, only the row numbers are kept


@dataclass(frozen=True)
class CheckOptions:
    """What a check needs to know besides the file."""

    columns: tuple[str, str] | None = None  # question and answer column of a table; None: guessed
    model_dir: Path | None = None  # contains tokenizer.json; None: tokens are not counted
    system: str | None = None  # the system prompt of rows without one
    max_length: int = 0  # in tokens; 0: no limit
    heldout: frozenset[str] = frozenset()  # content.question_key of each question that verify asks
    progress: Callable[[int, int], None] | None = None  # called with (bytes read, size of the file in bytes)


@dataclass(frozen=True)
class Finding:
    """One error or warning. `row` is 0 for the whole file; `where` is `row 3, output` or `line 3, column 8`."""

    file: str
    row: int
    where: str
    kind: str
    what: str
    remedy: str
    error: bool = True

    def __post_init__(self) -> None:
        for name in ("where", "what"):  # they quote the file, which may contain control characters
            object.__setattr__(self, name, content.printable(getattr(self, name)))

    def __str__(self) -> str:
        return _("{file}: {where}: {what}; {remedy}").format(
            file=self.file, where=self.where, what=_(self.what), remedy=self.remedy
        )


@dataclass
class FileReport:
    """The findings of one file. `lengths` are tokens per row, of all rows or, if `sampled`, of some."""

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
        """Count a finding. It is kept unless there are KEPT of its kind already."""
        rows = self.numbers.setdefault(finding.kind, [])
        if len(rows) < KEPT:
            self.findings.append(finding)
        rows.append(finding.row)
        if finding.error:
            self.errors += 1
        else:
            self.warnings += 1

    def add_once(self, finding: Finding, rows: list[int]) -> None:
        """Count a warning that applies to several rows as one."""
        self.numbers[finding.kind] = rows
        self.findings.append(finding)
        self.warnings += 1
