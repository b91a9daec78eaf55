"""Find what is wrong with datasets before a model is loaded; sft.sh and the swift launcher call `require`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from finetune.dataset.reading import Broken, read
from finetune.dataset.rows import faults
from finetune.dataset.source import Source, parse
from finetune.errors import UserError


@dataclass(frozen=True)
class Finding:
    """One fault and its place. `row` is 0 for the file as a whole; `where` is `row 3, output` or `line 3, column 8`."""

    file: str
    row: int
    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.where}: {self.what}; {self.remedy}"


@dataclass
class FileReport:
    """What was found in one file."""

    file: str
    rows: int = 0
    findings: list[Finding] = field(default_factory=list)


def check_file(path: Path, name: str | None = None) -> FileReport:
    """Check one file. UserError when it is of no use as a whole (missing, empty, a directory, binary)."""
    report = FileReport(name or str(path))
    for item in read(path):
        if isinstance(item, Broken):
            report.findings.append(Finding(report.file, item.row or 0, item.where, item.what, item.remedy))
            continue
        report.rows += 1
        for fault in faults(item.data):
            where = f"row {item.number}, {fault.field}" if fault.field else f"row {item.number}"
            report.findings.append(Finding(report.file, item.number, where, fault.what, fault.remedy))
    return report


def require(specs: Iterable[str], base: Path | None = None) -> list[tuple[Source, FileReport | None]]:
    """Check every --dataset argument; a hub dataset is parsed only, and has no report.

    Raises UserError with the first finding and how many more there are.
    """
    checked: list[tuple[Source, FileReport | None]] = []
    for spec in specs:
        source = parse(spec, base)
        report = check_file(source.path) if source.path else None
        if report and report.findings:
            more = len(report.findings) - 1
            rest = f" (and {more} more: python -m finetune.dataset check {source.path})" if more else ""
            raise UserError(f"{report.findings[0]}{rest}")
        checked.append((source, report))
    return checked


def sha256(path: Path) -> str:
    """The file's digest, for run.json: it says which data a run was trained on."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def require_readable(path: Path) -> None:
    """Raise UserError when a JSON file cannot be parsed; what its rows hold is not looked at, and other files pass."""
    if path.is_dir() or path.suffix.lower() not in (".json", ".jsonl"):
        return
    for item in read(path):
        if isinstance(item, Broken):
            raise UserError(f"{path}: {item}")
