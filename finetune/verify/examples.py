"""The example questions on the page of serve.sh: questions of a run, each with the answer in the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.errors import UserError
from finetune.data.content import question_key
from finetune.verify.rewordings import file as rewordings
from finetune.verify.runinfo import Run
from finetune.verify.sets import row_files, rows
from finetune.verify.sets.rows import DataRow

TRAINED, REWORDED, UNSEEN = "trained", "reworded", "unseen"
SPOKEN = {"user", "assistant"}


def of_run(run: Run, folder: Path, limit: int) -> list[dict[str, Any]]:
    """The questions of a run, from the rows in its folder, else from its datasets.

    Args:
        run: The run.
        folder: The folder of relative dataset names.
        limit: The most bytes as JSON; questions beyond it are left out.

    Returns:
        [{"kind", "question", "answer"}], with the earlier "turns" and the row's "system" if it has any. `kind` is
        trained, reworded (a trained question in other words) or unseen (left out of the training). The list is empty
        if nothing can be read; the page works without it.
    """
    try:
        found = row_files.kept_rows(run.folder / row_files.ROWS) or rows.read(run.own_datasets(folder), run.columns)
        left_out = {each.row.key for each in row_files.read(run.folder) if not each.answers}
        words = run.folder / rewordings.NAME
        other = {question_key(each.question): each.ask for each in rewordings.read(words)} if words.is_file() else {}
    except UserError:
        return []
    asked = [row for row in rows.draw(found) if not row.tools and {turn["role"] for turn in row.messages} <= SPOKEN]
    listed = [_example(row, UNSEEN if row.key in left_out else TRAINED, row.question) for row in asked]
    for row in asked:
        listed += [_example(row, REWORDED, text) for text in other.get(question_key(row.question), [])[:1]]
    return _within(listed, limit)


def _example(row: DataRow, kind: str, question: str) -> dict[str, Any]:
    made: dict[str, Any] = {"kind": kind, "question": question, "answer": row.answer}
    if turns := list(row.messages[:-1]):
        made["turns"] = turns
    if row.system is not None:
        made["system"] = row.system
    return made


def _within(listed: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The first examples that fit into `limit` bytes; one that takes over an eighth of it is skipped."""
    kept: list[dict[str, Any]] = []
    size = 2
    for each in listed:
        needs = len(json.dumps(each, ensure_ascii=False).encode("utf-8", "replace")) + 2
        if size + needs <= limit and needs <= max(limit // 8, 4096):
            kept.append(each)
            size += needs
    return kept
