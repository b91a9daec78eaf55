"""What reading a dataset yields: a row, or a place that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """A row as it is in the file. `number` counts from 1; `line` is where it begins."""

    number: int
    line: int
    data: Any
    names: Mapping[str, str] = field(default_factory=dict)  # a table's own headings of the fields


class Broken(Exception):
    """The file, or one line of a JSONL file, cannot be read: where, what, and the remedy."""

    def __init__(self, where: str, what: str, remedy: str, row: int | None = None) -> None:
        super().__init__(f"{where}: {what}; {remedy}")
        self.where, self.what, self.remedy, self.row = where, what, remedy, row


@dataclass(frozen=True)
class Note:
    """What was decided about a file as a whole and may be wrong. `kind` is what the summary counts."""

    kind: str
    what: str
    remedy: str


Remember = Callable[[Note], None]


def forget(note: Note) -> None:
    """For callers whose user has read the notes before: the training reads what was checked."""
