"""The files of rows in a run's folder: unseen rows with their answers, the verdict's rows, rows for the training.

finetune writes the unseen rows. Those of folds have both answers, since the adapters of folds are not kept; those that
were left out of the training have none. sft writes them too, if --split_dataset_ratio holds rows out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common import text_files
from common.errors import UserError
from common.i18n import _
from finetune.verify.engine import Answer
from finetune.verify.sets.rows import DataRow, of_messages

UNSEEN = "unseen.jsonl"
ROWS = "verdict-rows.jsonl"  # the rows of the verdict; the user's file may be gone when verify runs
TRAINING = "training-rows.jsonl"  # the data without the rows that were left out
MIXED = "mixed-rows.jsonl"  # general questions with the base's answers, for the training (--mix)
REWORDED = "reworded-rows.jsonl"  # rewordings for the training, in addition to the data (--reword)
NAMES = (UNSEEN, ROWS, TRAINING, MIXED, REWORDED)


@dataclass(frozen=True)
class UnseenRow:
    """A row and, if the adapter of its fold gave them, its answers by side (before, after)."""

    row: DataRow
    answers: dict[str, Answer] = field(default_factory=dict)


def as_training_row(row: DataRow) -> dict[str, Any]:
    """A row in ms-swift's layout."""
    head = [{"role": "system", "content": row.system}] if row.system is not None else []
    messages = [*head, *row.messages, {"role": "assistant", "content": row.answer}]
    return {"messages": messages} | ({"tools": row.tools} if row.tools else {})


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as JSONL, by rename. Raises UserError if the file cannot be written."""
    text_files.replace(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows), errors="surrogatepass")


def write(folder: Path, found: Sequence[UnseenRow]) -> None:
    """Write the unseen rows into a run's folder."""
    rows = []
    for each in found:
        answers = {side: asdict(answer) for side, answer in each.answers.items()}
        rows.append(as_training_row(each.row) | ({"answers": answers} if answers else {}))
    write_rows(folder / UNSEEN, rows)


def read(folder: Path) -> list[UnseenRow]:
    """The unseen rows of a run; empty if it has no such file. Raises UserError if the file is damaged."""
    found = []
    for number, data in _lines(folder / UNSEEN):
        row = of_messages(data["messages"], data.get("tools"), number, f"{folder / UNSEEN}, row {number}")
        if row is not None:
            answers = {side: Answer(**answer) for side, answer in data.get("answers", {}).items()}
            found.append(UnseenRow(row, answers))
    return found


def kept_rows(path: Path) -> list[DataRow]:
    """The rows in a file of a run, ROWS or REWORDED; empty if it has no such file.

    Raises UserError if the file is damaged.
    """
    found = (
        of_messages(data["messages"], data.get("tools"), int(data.get("number", number)), str(data.get("where", "")))
        for number, data in _lines(path)
    )
    return [row for row in found if row is not None]


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogatepass")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(
            _("{path}: cannot be read ({reason}); remove it, or run finetune again").format(
                path=path, reason=error.strerror
            )
        ) from None
    try:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        if all(isinstance(row.get("messages"), list) for row in rows):
            return list(enumerate(rows, 1))
    except (ValueError, AttributeError):
        pass
    raise UserError(_("{path}: damaged; remove it, or run finetune again").format(path=path))
