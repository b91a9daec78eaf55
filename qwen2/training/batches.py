"""Which rows make up a step, how they are packed, and which shapes get a CUDA graph; called by train.

Order: epoch e is torch.randperm(n) of a CPU generator seeded with data_seed + e, cut into batches of `batch_size`; the
last batch may be smaller. This is ms-swift's BatchSamplerShard. ms-swift shuffles the data set before it
(`dataset_shuffle`); to compare losses step by step, the caller must do the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.i18n import _
from qwen2.config import Config

Row = tuple[Sequence[int], Sequence[int]]
TOKEN_UNIT, LABEL_UNIT = 64, 64

# Rough costs on an H100 at the 7B shape, for choosing buckets only. Below some 350 tokens a step is bound by reading
# the weights; above, it grows in tiles of 256 tokens (768 tokens 47 ms, 832 60 ms; docs/fast-lane.md).
# A capture costs as much as a few steps.
MS_FLOOR, MS_PER_TOKEN, MS_CAPTURE, TILE = 20.0, 0.061, 250.0, 256
MS_LAUNCH = 140.0  # launch time of an uncaptured micro-batch's kernels: its minimum duration


@dataclass(frozen=True)
class Shape:
    """Sizes of a packed micro-batch: everything that is fixed in a captured graph."""

    tokens: int
    labels: int
    rows: int
    longest: int

    @property
    def words(self) -> int:
        """Number of int64 words that hold a micro-batch of this shape."""
        return 3 * self.tokens + 2 * self.labels + (self.rows + 2) // 2 + 2


@dataclass(frozen=True)
class Micro:
    """One micro-batch: indices of rows, their tokens and labels.

    `numbers` are the numbers of the rows' first tokens, counted over all rows of the step; () counts them in order.
    """

    rows: tuple[int, ...]
    tokens: int
    labels: int
    longest: int
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Step:
    """One optimizer step: the micro-batches of one process; labels, tokens and rows of all processes."""

    micros: tuple[Micro, ...]
    labels: int
    tokens: int
    rows: int


def epoch_order(count: int, data_seed: int, epoch: int) -> list[int]:
    """The order of rows in an epoch, counted from 0."""
    return _permutation(count, data_seed, epoch).tolist()


def _permutation(count: int, data_seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(data_seed + epoch))


def count_labels(row: Row) -> int:
    """Number of tokens of a row with a loss; the first token has none, since nothing precedes it."""
    return sum(1 for label in row[1][1:] if label >= 0)


def check_rows(rows: Sequence[Row], config: Config) -> None:
    """Raises ValueError, which names the first row that cannot be trained on."""
    if not rows:
        raise ValueError(_("there are no rows to train on: the dataset is empty"))
    for number, row in enumerate(rows, 1):
        ids, labels = row
        if len(ids) != len(labels):
            raise ValueError(
                _("row {number} has {ids} ids and {labels} labels; the numbers must be equal").format(
                    number=number, ids=len(ids), labels=len(labels)
                )
            )
        if count_labels(row) == 0:
            raise ValueError(_("row {number} has no token that carries loss: it needs an answer").format(number=number))
        if len(ids) > config.max_positions:
            raise ValueError(
                _("row {number} has {count} tokens, more than the model's {max_positions}; shorten it").format(
                    number=number, count=len(ids), max_positions=config.max_positions
                )
            )
        if min(ids) < 0 or max(max(ids), max(labels)) >= config.vocab_size:
            raise ValueError(
                _("row {number} has a token id outside the model's vocabulary of {vocab_size}").format(
                    number=number, vocab_size=config.vocab_size
                )
            )


def plan_steps(
    rows: Sequence[Row],
    total: int,
    batch_size: int,
    data_seed: int,
    micro_rows: int | None,
    micro_tokens: int | None,
    rank: int = 0,
    size: int = 1,
) -> list[Step]:
    """The `total` optimizer steps of a run, as seen by process `rank` of `size`."""
    tokens = [len(row[0]) for row in rows]
    labels = [count_labels(row) for row in rows]

    def micro(members: Sequence[int], first: dict[int, int]) -> Micro:
        lengths = [tokens[m] for m in members]
        numbers = tuple(first[m] for m in members)
        return Micro(tuple(members), sum(lengths), sum(labels[m] for m in members), max(lengths), numbers)

    steps: list[Step] = []
    epoch = 0
    while len(steps) < total:
        order = epoch_order(len(rows), data_seed, epoch)
        for start in range(0, len(order), batch_size):
            members = order[start : start + batch_size]
            ends = list(itertools.accumulate((tokens[m] for m in members), initial=0))
            first = dict(zip(members, ends, strict=False))
            mine = share(members, tokens, size)[rank] if size > 1 else members
            parts = split(mine, tokens, micro_rows, micro_tokens) if mine else []
            micros = tuple(micro(part, first) for part in parts)
            steps.append(Step(micros, sum(labels[m] for m in members), ends[-1], len(members)))
        epoch += 1
    return steps[:total]


def largest_batch(lengths: Sequence[int], total: int, batch_size: int, data_seed: int) -> int:
    """Tokens of the largest of the `total` whole batches that plan_steps makes; takes some microseconds per epoch."""
    tokens = torch.tensor(lengths)
    per_epoch = -(-len(lengths) // batch_size)
    most = 0
    for epoch in range(-(-total // per_epoch)):
        padded = torch.zeros(per_epoch * batch_size, dtype=torch.int64)
        padded[: len(lengths)] = tokens[_permutation(len(lengths), data_seed, epoch)]
        batches = padded.view(per_epoch, batch_size).sum(1)
        most = max(most, int(batches[: total - epoch * per_epoch].max()))
    return most


def share(members: Sequence[int], tokens: Sequence[int], size: int) -> list[list[int]]:
    """Divide the rows of a step among `size` processes, with tokens as even as possible; each in the step's order.

    Long rows first, each to the process with the fewest tokens so far: none exceeds the mean by more than one row.
    """
    found: list[list[int]] = [[] for _ in range(size)]
    load = [0] * size
    for place in sorted(range(len(members)), key=lambda at: -tokens[members[at]]):
        least = load.index(min(load))
        found[least].append(place)
        load[least] += tokens[members[place]]
    return [[members[place] for place in sorted(places)] for places in found]


def split(
    members: Sequence[int], tokens: Sequence[int], micro_rows: int | None, micro_tokens: int | None
) -> list[list[int]]:
    """Divide a batch into micro-batches of at most micro_rows rows and micro_tokens tokens (unless one row is longer).

    Long rows first, each into the first micro-batch with room (first-fit decreasing), so they are few and full.
    """
    if micro_tokens is None:
        size = micro_rows or len(members)
        return [list(members[i : i + size]) for i in range(0, len(members), size)]
    bins: list[list[int]] = []
    room: list[int] = []
    for member in sorted(members, key=lambda m: -tokens[m]):
        for i, free in enumerate(room):
            if tokens[member] <= free and (micro_rows is None or len(bins[i]) < micro_rows):
                bins[i].append(member)
                room[i] -= tokens[member]
                break
        else:
            bins.append([member])
            room.append(micro_tokens - tokens[member])
    return bins


def up(value: int, unit: int) -> int:
    """`value` rounded up to a multiple of `unit`."""
    return -(-value // unit) * unit


def step_ms(tokens: int, slower: tuple[float, float] = (1.0, 1.0)) -> float:
    """Rough time of a micro-batch of that many tokens on an H100 at the 7B shape, in milliseconds.

    `slower` holds how much slower another GPU reads and computes.
    """
    return max(MS_FLOOR * slower[0], MS_PER_TOKEN * slower[1] * up(tokens, TILE))


def choose_sizes(counts: dict[int, int]) -> tuple[list[int], float]:
    """Bucket sizes (tokens) that minimise the time for steps and captures, given the number of micro-batches per size.

    Also returns that time in ms. A micro-batch runs in the smallest bucket that holds it. Uses dynamic programming over
    the sorted sizes.
    """
    sizes = sorted(counts)
    best = [0.0] + [math.inf] * len(sizes)
    cut = [0] * (len(sizes) + 1)
    for end in range(1, len(sizes) + 1):
        cost = step_ms(sizes[end - 1])
        runs = 0
        for start in range(end - 1, -1, -1):
            runs += counts[sizes[start]]
            value = best[start] + MS_CAPTURE + runs * cost
            if value < best[end]:
                best[end], cut[end] = value, start
    chosen = []
    end = len(sizes)
    while end:
        chosen.append(sizes[end - 1])
        end = cut[end]
    return sorted(chosen), best[-1]


def plan_shapes(steps: Sequence[Step], graphs: bool) -> tuple[dict[Micro, Shape], list[Shape]]:
    """(shape of each micro-batch, shapes to capture, largest first; none if running uncaptured is as fast).

    All or nothing: graphs keep their memory, so large uncaptured micro-batches would not fit next to them.
    """
    micros = [micro for step in steps for micro in step.micros]
    counts: dict[int, int] = {}
    for micro in micros:
        size = up(micro.tokens, TOKEN_UNIT)
        counts[size] = counts.get(size, 0) + 1
    buckets, captured_ms = choose_sizes(counts)
    launched_ms = sum(count * max(MS_LAUNCH, step_ms(size)) for size, count in counts.items())
    if not graphs or launched_ms <= captured_ms:
        return {micro: shape_of([micro], up(micro.tokens, TOKEN_UNIT)) for micro in micros}, []
    members: dict[int, list[Micro]] = {}
    for micro in dict.fromkeys(micros):
        bucket = next(b for b in buckets if b >= micro.tokens)
        members.setdefault(bucket, []).append(micro)
    shapes: dict[Micro, Shape] = {}
    captured = []
    for bucket, group in sorted(members.items(), reverse=True):
        shape = shape_of(group, bucket)
        captured.append(shape)
        shapes.update(dict.fromkeys(group, shape))
    return shapes, captured


def shape_of(group: Sequence[Micro], tokens: int) -> Shape:
    """The smallest shape of that many tokens that holds all these micro-batches."""
    longest = up(max(micro.longest for micro in group), TOKEN_UNIT)
    rows = max(len(micro.rows) + -(-(tokens - micro.tokens) // longest) for micro in group)
    return Shape(tokens, up(max(1, max(m.labels for m in group)), LABEL_UNIT), rows, longest)


def exact_shape(micro: Micro) -> Shape:
    """A shape without padding, for a CPU."""
    return Shape(micro.tokens, micro.labels, len(micro.rows), micro.longest)


def lay_out(micro: Micro, rows: Sequence[Row], shape: Shape, scale: float, seed: int, pad: int) -> Tensor:
    """A micro-batch as int64 words on the CPU (see `views`).

    Padding tokens form separate rows, no longer than the longest row, so that every token belongs to a row and no
    undefined value is used.
    """
    words = torch.zeros(shape.words, dtype=torch.int64)
    ids, positions, pick, labels, bounds, scale_at, seed_at = views(words, shape)
    numbers = seed_at[1:]
    ids.fill_(pad)
    labels.fill_(-100)
    ends = [0]
    count = 0
    for place, index in enumerate(micro.rows):
        row_ids, row_labels = rows[index]
        start, size = ends[-1], len(row_ids)
        first = micro.numbers[place] if micro.numbers else start
        numbers[start : start + size] = torch.arange(first, first + size)
        ids[start : start + size] = torch.tensor(row_ids)
        positions[start : start + size] = torch.arange(size)
        wanted = torch.tensor(row_labels)[1:]
        at = (wanted >= 0).nonzero()[:, 0]
        pick[count : count + len(at)] = at + start
        labels[count : count + len(at)] = wanted[at]
        count += len(at)
        ends.append(start + size)
    while ends[-1] < shape.tokens:
        size = min(shape.longest, shape.tokens - ends[-1])
        positions[ends[-1] : ends[-1] + size] = torch.arange(size)
        ends.append(ends[-1] + size)
    bounds.fill_(shape.tokens)
    bounds[: len(ends)] = torch.tensor(ends, dtype=torch.int32)
    scale_at.fill_(scale)
    seed_at[0] = seed
    return words


def views(words: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """ids, positions [T], pick, labels [n], bounds [rows + 1] int32, scale (float32 scalar), seed [1 + T]."""
    sizes = (shape.tokens, shape.tokens, shape.labels, shape.labels, (shape.rows + 2) // 2, 1, 1 + shape.tokens)
    ids, positions, pick, labels, bounds, scale, seed = words.split(sizes)
    return (
        ids,
        positions,
        pick,
        labels,
        bounds.view(torch.int32)[: shape.rows + 1],
        scale.view(torch.float32)[0],
        seed,
    )


def mix(*numbers: int) -> int:
    """A 31-bit number derived from several: the seed of a micro-batch's dropout masks (splitmix64's finaliser)."""
    x = 0
    for number in numbers:
        x = (x + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        x ^= x >> 31
    return x & 0x7FFFFFFF
