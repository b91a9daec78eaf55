"""Estimates GPU memory and chooses recomputation and micro-batch to fit a ceiling; called by finetune's plan and bench.

The estimate counts what backprop keeps, tensor by tensor; the constants come from measured peaks (docs/fast-lane.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwen2.backprop import HEAD_ROWS, Recompute
from qwen2.batches import TOKEN_UNIT, Row, epoch_order, up
from qwen2.config import Config
from qwen2.lora import Layout
from qwen2.model import PROJECTIONS, padded_columns, storage_width

GIB = 2**30
WORKSPACES = 0.3  # GiB: cuBLAS workspaces, rotary tables, small tensors
SLACK = 0.35  # GiB that the allocator may reserve beyond what is allocated


@dataclass(frozen=True)
class MemoryPlan:
    """How to train under a ceiling. `micro_batch_tokens` None: every batch fits whole; `peak_gib` is the estimate."""

    recompute: Recompute
    micro_batch_tokens: int | None
    peak_gib: float


def fixed_gib(config: Config, rank: int, targets: Sequence[str] = PROJECTIONS) -> float:
    """GiB that do not grow with the batch: bfloat16 weights, adapter with its optimizer, a chunk of logits."""
    h, i, width = config.hidden_size, config.intermediate_size, 2
    heads = 1 if config.tie_embeddings else 2
    qkv = config.q_size + 2 * config.kv_size
    layer = qkv * storage_width(h, 3 * rank) + h * storage_width(config.q_size, rank)
    layer += 2 * i * storage_width(h, 2 * rank) + h * storage_width(i, rank) + 2 * h + qkv
    weights = (config.num_layers * layer + heads * config.vocab_size * h) * width
    adapter = Layout(config, rank, targets).size * (4 * 4 + width)
    logits = HEAD_ROWS * config.vocab_size * (4 + width)
    return (weights + adapter + logits) / GIB + WORKSPACES


def token_bytes(config: Config, rank: int, recompute: Recompute) -> int:
    """Bytes that one token of a micro-batch takes at the peak: kept by every layer, and passing through one."""
    h, i, width = config.hidden_size, config.intermediate_size, 2
    layer = 2 * h + config.q_size + 2 * config.kv_size + config.q_size + padded_columns(rank) + 2 * i
    layer_bytes = layer * width + 4 * config.num_heads
    passing = (3 * i + 6 * h) * width
    if recompute == "layer":
        # a whole layer comes and goes: the allocator's holes grow with the micro-batch
        return config.num_layers * h * width + layer_bytes + passing + (i + 2 * h) * width
    if recompute == "none":
        wide = 2 * h + i + padded_columns(3 * rank) + padded_columns(2 * rank) + padded_columns(rank)
        layer_bytes += wide * width
    return config.num_layers * layer_bytes + passing


def peak_gib(config: Config, rank: int, recompute: Recompute, tokens: int) -> float:
    """Estimate of the peak for micro-batches of that many tokens, allocator's slack included."""
    return fixed_gib(config, rank) + SLACK + up(tokens, TOKEN_UNIT) * token_bytes(config, rank, recompute) / GIB


def plan(
    config: Config, rank: int, ceiling_gib: float, rows: Sequence[Row], batch_size: int, data_seed: int, epochs: int
) -> MemoryPlan:
    """The fastest way that fits: batches whole, else split at the largest size that still recomputes little.

    Splitting costs next to nothing as long as a part has some hundreds of tokens; recomputing whole layers costs a
    quarter, so it is for rows that are too long otherwise. ValueError when even the longest row does not fit.
    """
    lengths = [len(ids) for ids, _ in rows]
    longest = max(lengths)
    biggest = longest
    for epoch in range(epochs):
        order = epoch_order(len(rows), data_seed, epoch)
        for start in range(0, len(order), batch_size):
            biggest = max(biggest, sum(lengths[row] for row in order[start : start + batch_size]))
    room = (ceiling_gib - fixed_gib(config, rank) - SLACK) * GIB
    modes: tuple[Recompute, ...] = ("none", "swiglu", "layer")
    fits = {mode: int(room // token_bytes(config, rank, mode)) // TOKEN_UNIT * TOKEN_UNIT for mode in modes}
    for mode in modes[:2]:
        if biggest <= fits[mode]:
            return MemoryPlan(mode, None, peak_gib(config, rank, mode, biggest))
    for mode in modes[1:]:
        if longest <= fits[mode]:
            return MemoryPlan(mode, fits[mode], peak_gib(config, rank, mode, min(fits[mode], biggest)))
    needed = peak_gib(config, rank, "layer", longest)
    raise ValueError(
        f"a row of {longest} tokens needs about {needed:.1f} GiB, more than the ceiling of {ceiling_gib:g} GiB: "
        "lower max_length, or raise VRAM_CEILING_GIB on a larger card"
    )
