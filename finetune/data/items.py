"""What the readers of datasets yield: rows, and places that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """A row of a file. `number` and `line`, on which it begins, count from 1."""

    number: int
    line: int
    data: Any
    names: Mapping[str, str] = field(default_factory=dict)  # field -> the heading of its column in a table


class Broken(Exception):
    """A file or a row that cannot be read: where, what is wrong, what to do, and the number of the row if known."""

    def __init__(self, where: str, what: str, remedy: str, row: int | None = None) -> None:
        super().__init__(f"{where}: {what}; {remedy}")
        self.where, self.what, self.remedy, self.row = where, what, remedy, row


@dataclass(frozen=True)
class Note:
    """A guess about the whole file, such as its encoding. The summary counts notes by `kind`."""

    kind: str
    what: str
    remedy: str


Remember = Callable[[Note], None]


def forget(note: Note) -> None:
    """Ignore a note; for callers that read a file again after its check, when the user has seen the notes."""
