"""The training rows of the fast lane as token ids, in ms-swift's order; used by sft/start.py.

ms-swift draws and shuffles with one numpy generator seeded with data_seed (swift/dataset/loader.py, load_dataset): per
dataset one number, then the draw of `FILE#200`, and last the seed of the shuffle over all. The same numbers are drawn
here, so that both engines see the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from common import host
from common.errors import UserError
from finetune.data.items import Broken
from finetune.data.reading import read
from finetune.data.source import Source

SEED_LIMIT = 2**31 - 1  # numpy.iinfo(int32).max, as in swift/utils/np_utils.py


@dataclass
class Rows:
    """(ids, labels) of every row that is trained on, and how many were left out for their length."""

    rows: list[tuple[list[int], list[int]]]
    too_long: int = 0

    def in_one_line(self) -> str:
        """What is trained on."""
        lengths = [len(ids) for ids, _ in self.rows]
        text = f"{len(self.rows)} rows of {min(lengths)} to {max(lengths)} tokens"
        return text + (f", {self.too_long} longer than max_length left out" if self.too_long else "")


def encode(
    sources: Sequence[Source],
    tokenizer: Any,
    system: str | None,
    max_length: int,
    data_seed: int,
    columns: tuple[str, str] | None = None,
    skip: Callable[[Any], bool] | None = None,
) -> Rows:
    """Read, draw, shuffle and tokenize; rows for which `skip` is true are left out.

    UserError names the file and row that cannot be trained on.
    """
    numbered, seed = drawn_rows(sources, columns, data_seed)
    if not numbered:
        raise UserError("the datasets hold no rows to train on; `check-data FILE` shows what is wrong with each")
    found = Rows([])
    for source, number, data in (numbered[index] for index in permutation(len(numbered), seed)):
        if skip and skip(data):
            continue
        try:
            ids, labels = tokenizer.encode_row(data, system)
        except ValueError as error:
            more = host.call("check-data", dataset=source.path)
            raise UserError(f"{source.path}: row {number}: {error}; {more} says more") from None
        if max_length and len(ids) > max_length:
            found.too_long += 1
        else:
            found.rows.append((ids, labels))
    if not found.rows:
        raise UserError(
            f"all {found.too_long} rows are longer than max_length {max_length}; raise it, or shorten the rows"
        )
    return found


def drawn_rows(
    sources: Sequence[Source], columns: tuple[str, str] | None, data_seed: int
) -> tuple[list[tuple[Source, int, Any]], int]:
    """(source, number, data) of the rows drawn from every source, in the order drawn, and the seed of the shuffle."""
    import numpy

    state = numpy.random.RandomState(data_seed)
    found: list[tuple[Source, int, Any]] = []
    for source in sources:
        assert source.path is not None
        rows = []
        for row in read(source.path, columns):
            if isinstance(row, Broken):
                raise UserError(f"{source.path}: {row}")
            rows.append((source, row.number, row.data))
        state.randint(0, SEED_LIMIT)
        found += [rows[index] for index in draw(len(rows), source.sample, state)]
    return found, int(state.randint(0, SEED_LIMIT))


def draw(count: int, sample: int | None, state: Any) -> list[int]:
    """Indices that `FILE#sample` takes of `count` rows: whole repeats first, then a part of a permutation."""
    if sample is None or count == 0:
        return list(range(count))
    whole, part = divmod(sample, count)
    chosen = list(range(count)) * whole
    if part:
        chosen += state.permutation(count)[:part].tolist()
    return chosen


def permutation(count: int, seed: int) -> list[int]:
    """datasets.Dataset.shuffle(seed)'s order."""
    import numpy

    return numpy.random.default_rng(seed).permutation(count).tolist()
