"""Measures unseen rows by cross-validation: for each fold, an adapter is trained on the other rows and asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune.verify.config import VerifyConfig
from finetune.verify.engine import Answer, Engine
from finetune.verify.preparation import keys_to_skip
from finetune.verify.rewordings.file import Rewording
from finetune.verify.session import AFTER, BEFORE, ask_of
from finetune.verify.sets import ask, row_files
from finetune.verify.sets.survey import Survey

Trainer = Callable[[set[str]], Any]  # trains an adapter on all rows except those with these keys (DataRow.key)


def ask_all(
    found: Survey,
    parts: Sequence[Sequence[int]],
    known: Sequence[Rewording],
    engine: Engine,
    train: Trainer,
    cfg: VerifyConfig,
    system: str,
    folder: Path,
) -> None:
    """Ask the base the rows of all folds, then each fold's adapter its own rows, and keep the answers.

    Args:
        found: The data.
        parts: The rows of each fold, as indices into `found.rows`.
        known: The run's rewordings. Those of a fold's rows are left out of its training too.
        engine: Answers, with the base or with an adapter.
        train: Trains the adapter of a fold.
        cfg: Limits the length of answers.
        system: The training's system prompt.
        folder: The run's folder, where the answers are kept.
    """
    places = [place for part in parts for place in part]
    questions = zip(places, ask.unseen(found, places), strict=True)
    asks = {place: ask_of(question, system, cfg.max_new_tokens) for place, question in questions}

    def ask_rows(part: Sequence[int], adapter: Any) -> dict[int, Answer]:
        answers = engine.answer([asks[place] for place in part], adapter, lambda _: None)  # the bar counts steps
        return dict(zip(part, answers, strict=True))

    before = ask_rows(places, None)
    after: dict[int, Answer] = {}
    for part in parts:
        adapter = train(keys_to_skip(found, part, known))
        after |= ask_rows(part, adapter)
    rows = [row_files.UnseenRow(found.rows[place], {BEFORE: before[place], AFTER: after[place]}) for place in places]
    row_files.write(folder, rows)
