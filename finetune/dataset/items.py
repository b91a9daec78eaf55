"""What reading a dataset yields: a row, or a place that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A row as it stands in the file. `number` counts from 1; `line` is where it begins."""

    number: int
    line: int
    data: Any


class Broken(Exception):
    """The file, or one line of a JSONL file, cannot be read: where, what, and the remedy."""

    def __init__(self, where: str, what: str, remedy: str, row: int | None = None) -> None:
        super().__init__(f"{where}: {what}; {remedy}")
        self.where, self.what, self.remedy, self.row = where, what, remedy, row
