"""Questions from alpaca-gpt4-data-zh that a run did not train on, for the article's figure; verify.sh --alpaca N."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.i18n import _
from finetune.data import hub, source
from finetune.data.content import question_key
from finetune.verify.questions import Question, read_rows
from finetune.verify.runinfo import Run
from finetune.verify.stats import SEED

HUB_ID = "AI-ModelScope/alpaca-gpt4-data-zh"

Row = tuple[tuple[dict[str, str], ...], str]


def held_out(count: int, file: Path | None, run: Run) -> list[Question]:
    """Questions from rows that the run did not train on; each call draws the same rows.

    Args:
        count: The number of questions.
        file: A local dataset file; None: the hub's.
        run: The run.

    Raises:
        UserError: There are fewer such rows, or a dataset cannot be loaded.
    """
    name = str(file) if file else HUB_ID
    rows = read_rows(file) if file else _hub_rows(HUB_ID)
    trained = {question_key(text) for text in trained_questions(run)}
    free = [(number, row) for number, row in enumerate(rows, 1) if question_key(row[0][-1]["content"]) not in trained]
    if len(free) < count:
        raise UserError(
            _("{name}: {free} of {all} rows were not trained on, too few for --alpaca {count}; lower it").format(
                name=name, free=len(free), all=len(rows), count=count
            )
        )
    chosen = sorted(random.Random(SEED).sample(free, count), key=lambda pair: pair[0])
    return [
        Question(
            id=f"alpaca-{number}",
            part="alpaca",
            kind="alpaca",
            messages=messages,
            where=f"{name}, row {number}",
            reference=output,
        )
        for number, (messages, output) in chosen
    ]


def trained_questions(run: Run) -> Iterable[str]:
    """The questions of all rows that the run trained on.

    The rows of a sample (`NAME#500`) are not recorded, so ms-swift draws them again with the run's seed.
    """
    specs = run.datasets
    if any("#" in spec for spec in specs):
        return _drawn_again(specs, run.settings)
    found: list[str] = []
    for spec in specs:
        where = source.parse(spec)
        rows = read_rows(where.path) if where.path else _hub_rows(spec)
        found += [messages[-1]["content"] for messages, _ in rows]
    return found


def _drawn_again(specs: list[str], settings: dict[str, Any]) -> list[str]:
    """The rows that `swift sft` drew in that run (swift/arguments/base_args: BaseArguments.load_dataset)."""
    for spec in specs:
        _require(spec)
    seed = settings.get("data_seed")
    dataset, _ = _swift_load(
        specs,
        split_dataset_ratio=float(settings.get("split_dataset_ratio") or 0.0),
        shuffle=bool(settings.get("dataset_shuffle", True)),
        seed=int(settings.get("seed") or 42) if seed is None else int(seed),
    )
    return [_row(row)[0][-1]["content"] for row in dataset]


def _hub_rows(spec: str) -> list[Row]:
    _require(spec)
    dataset, _ = _swift_load([spec])
    return [_row(row) for row in dataset]


def _require(spec: str) -> None:
    """Raises UserError if a hub dataset cannot be loaded; called before ms-swift, which is slow to import."""
    try:
        hub.require(source.parse(spec))
    except UserError:
        raise UserError(
            _("{spec}: its hub does not answer; name a local file of the same format with --alpaca-file FILE").format(
                spec=spec
            )
        ) from None


def _row(row: dict[str, Any]) -> Row:
    """(messages, answer) of a row of ms-swift, whose messages end with the answer."""
    turns = tuple({"role": m["role"], "content": m["content"]} for m in row["messages"] if m["role"] != "system")
    return turns[:-1], turns[-1]["content"]


def _swift_load(specs: list[str], **options: Any) -> Any:
    """swift.dataset.load_dataset. Importing it takes some 20 s, so nothing else in verify does."""
    from swift.dataset import load_dataset

    try:
        return load_dataset(specs, **options)
    except Exception as error:  # the hub's client can raise anything
        words = " ".join(str(error).split())[:200]
        raise UserError(
            _("cannot load {specs}: {words}; name a local file of the same format with --alpaca-file FILE").format(
                specs=", ".join(specs), words=words
            )
        ) from None
