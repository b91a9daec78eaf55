"""The training rows of the fast lane as token ids, in ms-swift's order; used by sft/start.py.

ms-swift draws and shuffles with one numpy generator seeded with data_seed (swift/dataset/loader.py, load_dataset): one
number per dataset, then the draw of `FILE#200`, and last the seed of the shuffle over all. The same numbers are drawn
here, so both engines see the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from common import host
from common.errors import UserError
from common.i18n import _
from finetune.data.reading import read_rows
from finetune.data.source import DatasetSource

SEED_LIMIT = 2**31 - 1  # numpy.iinfo(int32).max, as in swift/utils/np_utils.py


Numbered = tuple[DatasetSource, int, Any]  # a row's file, its number there, and its data


@dataclass(frozen=True)
class Drawn:
    """Rows in training order, and rows held out of training."""

    rows: list[Numbered]
    held_out: list[Numbered]


@dataclass
class EncodedRows:
    """(ids, labels) of every training row, and how many rows were left out for their length."""

    rows: list[tuple[list[int], list[int]]]
    too_long: int = 0
    held_out: list[tuple[list[int], list[int]]] = field(default_factory=list)  # evaluated, never trained on

    def in_one_line(self) -> str:
        """The training rows."""
        lengths = [len(ids) for ids, _other in self.rows]
        text = _("{count} rows of {shortest} to {longest} tokens").format(
            count=len(self.rows), shortest=min(lengths), longest=max(lengths)
        )
        text += (
            _(", {too_long} longer than max_length left out").format(too_long=self.too_long) if self.too_long else ""
        )
        return text + (_(", {count} held out and evaluated").format(count=len(self.held_out)) if self.held_out else "")


def encode(
    sources: Sequence[DatasetSource],
    tokenizer: Any,
    system: str | None,
    max_length: int,
    data_seed: int,
    columns: tuple[str, str] | None = None,
    skip: Callable[[Any], bool] | None = None,
    split: float = 0.0,
    val_sources: Sequence[DatasetSource] = (),
) -> EncodedRows:
    """Read, draw, shuffle and tokenize.

    Args:
        sources: Training files, with the number of rows to draw from each.
        tokenizer: The model's.
        system: The system prompt for rows without one.
        max_length: Longer rows are left out; 0: none.
        data_seed: Determines which rows are drawn and held out, and the order.
        columns: Columns of a table, if named.
        skip: Rows for which it is true are left out of training.
        split: Share of each file to hold out.
        val_sources: Files to hold out.

    Raises:
        UserError: A row cannot be trained on; the message names file and row.
    """
    drawn = drawn_rows(sources, columns, data_seed, split)
    if not drawn.rows:
        raise UserError(_("the datasets hold no rows to train on; `check-data FILE` shows what is wrong with each"))
    found = EncodedRows([])

    def encoded(row: Numbered) -> tuple[list[int], list[int]] | None:
        ids, labels = _tokens(row, tokenizer, system)
        if max_length and len(ids) > max_length:
            found.too_long += 1
            return None
        return ids, labels

    for row in drawn.rows:
        if not (skip and skip(row[2])) and (pair := encoded(row)):
            found.rows.append(pair)
    for row in [*drawn.held_out, *in_order(val_sources, columns)]:
        if pair := encoded(row):
            found.held_out.append(pair)
    if not found.rows:
        raise UserError(
            _("all {too_long} rows are longer than max_length {max_length}; raise it, or shorten the rows").format(
                too_long=found.too_long, max_length=max_length
            )
        )
    return found


def _tokens(row: Numbered, tokenizer: Any, system: str | None) -> tuple[list[int], list[int]]:
    source, number, data = row
    try:
        ids, labels = tokenizer.encode_row(data, system)
    except ValueError as error:
        more = host.call("check-data", dataset=source.path)
        raise UserError(
            _("{path}: row {number}: {reason}; {more} says more").format(
                path=source.path, number=number, reason=error, more=more
            )
        ) from None
    return ids, labels


def drawn_rows(
    sources: Sequence[DatasetSource], columns: tuple[str, str] | None, data_seed: int, split: float = 0.0
) -> Drawn:
    """The rows of all sources in training order, and those held out.

    Raises UserError if a source is broken, or has too few rows to hold any out.
    """
    import numpy

    state = numpy.random.RandomState(data_seed)
    train: list[Numbered] = []
    held: list[Numbered] = []
    for source in sources:
        rows = _numbered(source, columns)
        state.randint(0, SEED_LIMIT)
        sample = source.sample
        if split and rows:
            count = max(int(min(len(rows), sample or len(rows)) * split), 1)
            sample = (sample or len(rows)) - count
            if sample < 1 or count >= len(rows):
                raise UserError(
                    _(
                        "{file}: --split_dataset_ratio {ratio:g} would hold out all of its {count} rows; add rows, or "
                        "leave it out"
                    ).format(file=source.path, ratio=split, count=len(rows))
                )
            order = permutation(len(rows), int(state.randint(0, SEED_LIMIT)))
            held += [rows[index] for index in order[:count]]
            rows = [rows[index] for index in order[count:]]
        train += [rows[index] for index in draw(len(rows), sample, state)]
    train = [train[index] for index in permutation(len(train), int(state.randint(0, SEED_LIMIT)))]
    if held:
        held = [held[index] for index in permutation(len(held), int(state.randint(0, SEED_LIMIT)))]
    return Drawn(train, held)


def in_order(sources: Sequence[DatasetSource], columns: tuple[str, str] | None) -> list[Numbered]:
    """The rows of --val_dataset: for FILE#50 the first 50, as in ms-swift."""
    return [row for source in sources for row in _numbered(source, columns)[: source.sample]]


def _numbered(source: DatasetSource, columns: tuple[str, str] | None) -> list[Numbered]:
    assert source.path is not None
    return [(source, row.number, row.data) for row in read_rows(source.path, columns)]


def draw(count: int, sample: int | None, state: Any) -> list[int]:
    """Indices that `FILE#sample` takes of `count` rows: whole repeats first, then part of a permutation."""
    if sample is None or count == 0:
        return list(range(count))
    whole, part = divmod(sample, count)
    chosen = list(range(count)) * whole
    if part:
        chosen += state.permutation(count)[:part].tolist()
    return chosen


def permutation(count: int, seed: int) -> list[int]:
    """The order of datasets.Dataset.shuffle(seed)."""
    import numpy

    return numpy.random.default_rng(seed).permutation(count).tolist()
