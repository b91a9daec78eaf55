"""The memory of each GPU if FSDP2 shards the base over several; reported by the command plan and sft (docs/plan.md).

A GPU keeps its shard of the weights, the adapter and the optimizer. Unsharded at any time are the current layer, the
next one, which is prefetched, and what belongs to no layer: embedding and head (configs/fsdp2.json wraps layers).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune.plan import memory
from finetune.plan.memory import GIB, LoraSpec
from finetune.plan.swift import divisors, worst
from qwen2.config import Config

CARDS = (2, 4, 8)
LAYERS = 2  # unsharded at any time
# Reserved beyond what is counted: 7B under 12 GiB and 14B under 22, each over two H200 (docs/performance.md).
SLACK = 1.07


@dataclass(frozen=True)
class Share:
    """GiB on each of `cards` GPUs with `rows` rows at a time: its shard, the gathered layers, and the reserved peak."""

    cards: int
    rows: int
    part_gib: float
    gathered_gib: float
    peak_gib: float


def share(
    shape: Config, adapter: LoraSpec, lengths: Sequence[int], cards: int, rows: int, checkpointing: bool = True
) -> Share:
    """The estimate for one GPU, without liger. The longest row counts, with others next to it."""
    fixed = memory.fixed_gib(shape, adapter)
    growing = memory.peak_gib(shape, adapter, worst(lengths, rows), checkpointing, False) - fixed
    apart = (1 if shape.tie_embeddings else 2) * shape.vocab_size * shape.hidden_size
    gathered = 2 * (apart + LAYERS * shape.linear_parameters / shape.num_layers) / GIB
    part = fixed / cards
    return Share(cards, rows, round(part, 2), round(gathered, 2), round(SLACK * (part + gathered + growing), 2))


def fitting(
    shape: Config, adapter: LoraSpec, lengths: Sequence[int], cards: int, batch: int, ceiling_gib: float
) -> Share:
    """With as many rows at a time as fit under the ceiling; with one if none fit."""
    sizes = divisors(max(1, batch // cards))
    found = [share(shape, adapter, lengths, cards, rows) for rows in sizes]
    return next((each for each in reversed(found) if each.peak_gib <= ceiling_gib), found[0])
