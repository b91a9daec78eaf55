"""Prepares a verdict before the training: surveys the data, makes rewordings, leaves rows out of the training.

The commands sft and finetune call it. The results are kept in the run's folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.i18n import _, language
from finetune.data import reading
from finetune.data.content import question_key
from finetune.verify import config, epochs, selection
from finetune.verify.rewordings import file as rewordings_file
from finetune.verify.rewordings import make, near
from finetune.verify.rewordings.file import Rewording
from finetune.verify.sets import row_files, rows, survey
from finetune.verify.sets.rows import DataRow
from finetune.verify.sets.survey import Sets, Survey
from finetune.verify.words import speaker

Columns = tuple[str, str] | None


def look(
    paths: Sequence[Path],
    columns: Columns = None,
    question_files: Sequence[Path] = (),
    expect: str | None = None,
    config_file: Path | None = None,
    kind: str = "other",
) -> Survey:
    """The survey of the data that verify will use.

    Args:
        paths: Dataset files.
        columns: The question's and the answer's column of a table; None: guessed.
        question_files: The user's own questions, which may say how rows that teach an identity are scored.
        expect: The user's own pattern of the new identity.
        config_file: The configuration; None: the workspace's configs/verify.yaml.
        kind: The name of the model's kind (common.model_kind): models made for tests have a configuration of their own.

    Raises:
        UserError: A file cannot be used, or the data cannot be judged.
    """
    cfg = config.read(config.for_kind(config_file or config.default_path(), kind))
    entries = selection.read_questions(cfg, question_files, expect).trained
    found = survey.survey(paths, entries, columns, own=bool(expect))
    if not found.is_identity:
        config.require_for_data(cfg)
    return found


def announce(paths: Sequence[Path], columns: Columns = None) -> str:
    """What a verdict on some files will ask, in one line, or why no verdict is possible."""
    try:
        found = look(paths, columns)
        survey.require_judgeable(found)
    except UserError as error:
        return _("verdict: none; {reason}").format(reason=error)
    chosen = survey.sets(found)
    line = survey.in_one_line(found, chosen)
    if (why := chosen.why_not_unseen) is None:
        return line
    return _("{line}; none held out: {why}").format(line=line, why=speaker(language())(why))


def keep_rows(folder: Path, found: Sequence[DataRow]) -> None:
    """Keep the rows of the verdict in the run's folder: the user's file may be gone when verify runs later."""
    lines = [row_files.as_training_row(row) | {"number": row.number, "where": row.where} for row in found]
    row_files.write_rows(folder / row_files.ROWS, lines)


def reword(
    found: Survey,
    chosen: Sets | None,
    folder: Path,
    base: make.Answerer | None,
    train: int = 0,
    given: Path | None = None,
    choose: Sequence[int] = (),
) -> Path | None:
    """Write rewordings.yaml into the run's folder and, if `train` asks for it, a file of rows for the training.

    Args:
        found: The data.
        chosen: The rows that verify rewords; None: no verdict follows, and only the training gets rewordings.
        folder: The run's folder.
        base: The base model; None if it cannot be asked for rewordings.
        train: The number of rewordings of each row for the training.
        given: The user's own file of rewordings. Missing ones are not made, except those for choosing an epoch.
        choose: Indices of the rows whose rewordings choose the number of epochs.

    Returns:
        The file of rows for the training; None if `train` is 0.

    Raises:
        UserError: The user's file is faulty, a file cannot be written, or no question could be reworded.
    """
    reworded = chosen.reworded if chosen else []
    wanted = found.rows if train else [found.rows[place] for place in sorted({*reworded, *choose})]
    if not wanted:
        return None
    each = epochs.per_row(len(choose))
    if given:
        known = _with_choosing(rewordings_file.read(given), [found.rows[place] for place in choose], found, base, each)
    else:
        known = make.make(wanted, found.rows, base, train, each, make.ASKED if reworded or train else 0)
    missed = survey.near_missed(found, chosen) if chosen else []
    near.add(known, [found.rows[place] for place in missed], found.rows, base)
    rewordings_file.write(folder / rewordings_file.NAME, known)
    if not train:
        return None
    added = make.training_rows(known, found.rows)
    if not added:
        raise UserError(
            _(
                "--reword {train}: no question could be put in other words; write some into a file by hand, "
                "under `train`, and give it with --rewordings FILE"
            ).format(train=train)
        )
    row_files.write_rows(folder / row_files.REWORDED, added)
    return folder / row_files.REWORDED


def _with_choosing(
    given: list[Rewording], rows: Sequence[DataRow], found: Survey, base: make.Answerer | None, each: int
) -> list[Rewording]:
    """The user's rewordings. If they have none for choosing an epoch, those are made and added."""
    if not rows or any(known.choose for known in given):
        return given
    by_key = {question_key(known.question): known for known in given}
    for made in make.make(rows, found.rows, base, choose=each, asked=0):
        by_key.setdefault(question_key(made.question), Rewording(made.question)).choose = made.choose
    return list(by_key.values())


def leave_out(found: Survey, chosen: Sets, folder: Path, paths: Iterable[Path], columns: Columns) -> Path:
    """Divide the data into rows for the training and rows that are left out, as two files in the run's folder.

    Args:
        found: The data.
        chosen: `holdout` names the rows to leave out.
        folder: The run's folder.
        paths: The dataset files.
        columns: The question's and the answer's column of a table; None: guessed.

    Returns:
        The file with the rows for the training.
    """
    left = [found.rows[place] for place in chosen.holdout]
    row_files.write(folder, [row_files.UnseenRow(row) for row in left])
    keys = {row.key for row in left}
    row_files.write_rows(folder / row_files.TRAINING, list(_without(keys, paths, columns)))
    return folder / row_files.TRAINING


def _without(keys: set[str], paths: Iterable[Path], columns: Columns) -> Iterator[dict[str, Any]]:
    """All rows of the files, including repeats, except those with one of the keys."""
    from qwen2.chat import standard_row

    for path in paths:
        for item in reading.read_rows(path, columns):
            row = rows.data_row(item.data, item.number, "")
            if row is None or row.key not in keys:
                messages, tools = standard_row(item.data)
                yield {"messages": messages} | ({"tools": tools} if tools else {})


def keys_to_skip(found: Survey, part: Sequence[int], known: Sequence[Rewording]) -> set[str]:
    """Keys of the questions that a fold must not be trained on.

    Args:
        found: The data.
        part: The fold's rows, as indices into `found.rows`.
        known: The run's rewordings; those of the fold's rows in the training are left out too.
    """
    asked = [found.rows[place] for place in part]
    by_key, _other = make.for_rows(known, asked)
    keys = {row.key for row in asked}
    for row in asked:
        each = by_key.get(question_key(row.question))
        for text in each.train if each else ():
            keys.add(replace(row, messages=row.reworded(text)).key)
    return keys
