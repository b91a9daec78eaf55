"""Questions of a run to try by hand, each with the answer that was trained: what the page of serve.sh lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.errors import UserError
from finetune.data.content import question_key
from finetune.verify.rewordings import file as rewordings
from finetune.verify.runinfo import Run
from finetune.verify.sets import rows, unseen
from finetune.verify.sets.rows import DataRow

TRAINED, REWORDED, UNSEEN = "trained", "reworded", "unseen"
SPOKEN = {"user", "assistant"}


def of_run(run: Run, folder: Path, limit: int) -> list[dict[str, Any]]:
    """The questions of a run, from what its folder keeps, or from its datasets where they are still there.

    Args:
        run: The run.
        folder: Where relative names of datasets begin.
        limit: At most so many bytes as JSON; what is further down is left out.

    Returns:
        [{"kind", "question", "answer"}], with "turns" before the question and the row's own "system" where there are
        any. `kind` is trained, reworded (other words of a trained one) or unseen (left out of the training). Empty
        where nothing can be read: the page does without.
    """
    try:
        found = unseen.kept_rows(run.folder / unseen.ROWS) or rows.read(run.own_datasets(folder), run.columns)
        left_out = {each.row.key for each in unseen.read(run.folder) if not each.answers}
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
    """The first of the list that fit, without one that takes more than its share by far."""
    kept: list[dict[str, Any]] = []
    size = 2
    for each in listed:
        needs = len(json.dumps(each, ensure_ascii=False).encode("utf-8", "replace")) + 2
        if size + needs <= limit and needs <= max(limit // 8, 4096):
            kept.append(each)
            size += needs
    return kept
