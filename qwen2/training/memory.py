"""Estimates GPU memory and chooses recomputation and micro-batch to fit a ceiling; called by finetune's plan and bench.

The estimate counts what backprop keeps, tensor by tensor; the constants come from measured peaks (docs/fast-lane.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwen2.config import PROJECTIONS, Config
from qwen2.lora import Layout
from qwen2.model import padded_columns
from qwen2.training.backprop import Recompute, head_rows
from qwen2.training.batches import TOKEN_UNIT, Row, plan_steps, up
from qwen2.training.loop import TrainSettings

GIB = 2**30
WORKSPACES = 0.25  # GiB: cuBLAS workspaces, rotary tables, small tensors
SLACK = 0.6  # GiB that the allocator may reserve beyond what is allocated


@dataclass(frozen=True)
class MemoryPlan:
    """How to train under a ceiling. `micro_batch_tokens` None: every batch fits whole; `peak_gib` is the estimate."""

    recompute: Recompute
    micro_batch_tokens: int | None
    peak_gib: float


def fixed_gib(config: Config, rank: int, targets: Sequence[str] = PROJECTIONS) -> float:
    """GiB that do not grow with the batch: bfloat16 weights, the adapter with its optimizer."""
    h, i, width = config.hidden_size, config.intermediate_size, 2
    heads = 1 if config.tie_embeddings else 2
    qkv = config.q_size + 2 * config.kv_size
    layer = qkv * (h + padded_columns(3 * rank)) + h * (config.q_size + padded_columns(rank))
    layer += 2 * i * (h + padded_columns(2 * rank)) + h * (i + padded_columns(rank)) + 2 * h + qkv
    weights = (config.num_layers * layer + heads * config.vocab_size * h) * width
    adapter = Layout(config, rank, targets).size * (4 * 4 + width)
    return (weights + adapter) / GIB + WORKSPACES + SLACK


def token_bytes(config: Config, rank: int, recompute: Recompute, dropout: float) -> tuple[int, int]:
    """(bytes that a token leaves in all layers for the backward pass, bytes that it takes in passing through one)."""
    h, i, width = config.hidden_size, config.intermediate_size, 2
    layer = 2 * h + config.q_size + 2 * config.kv_size + config.q_size + padded_columns(rank) + 2 * i
    layer_bytes = layer * width + 4 * config.num_heads
    passing = (3 * i + 6 * h + (i if dropout > 0 else 0)) * width
    if recompute == "layer":
        # a whole layer comes and goes: the allocator's holes grow with the micro-batch
        return config.num_layers * h * width, layer_bytes + passing + 2 * i * width
    if recompute == "none":
        wide = 2 * h + i + padded_columns(3 * rank) + padded_columns(2 * rank) + padded_columns(rank)
        layer_bytes += wide * width
    return config.num_layers * layer_bytes, passing


def peak_gib(config: Config, rank: int, recompute: Recompute, tokens: int, dropout: float = 0.0) -> float:
    """Estimate of the reserved peak for micro-batches of that many tokens."""
    kept, passing = token_bytes(config, rank, recompute, dropout)
    size = up(tokens, TOKEN_UNIT)
    logits = min(head_rows(size), size) * config.vocab_size * (4 + 2)
    return fixed_gib(config, rank) + (size * kept + max(size * passing, logits)) / GIB


def fitting_tokens(config: Config, rank: int, recompute: Recompute, ceiling_gib: float, dropout: float) -> int:
    """The most tokens of a micro-batch under the ceiling, in units of TOKEN_UNIT; 0 when there are none."""
    tokens = 0
    while peak_gib(config, rank, recompute, tokens + TOKEN_UNIT, dropout) <= ceiling_gib:
        tokens += TOKEN_UNIT
        if tokens >= config.max_positions * 8:
            break
    return tokens


def plan(config: Config, settings: TrainSettings, rows: Sequence[Row], ceiling_gib: float) -> MemoryPlan:
    """The fastest way that fits: batches whole, else split at the largest size that still recomputes little.

    Splitting costs next to nothing as long as a part has some hundreds of tokens; recomputing whole layers costs a
    quarter, so it is for rows that are too long otherwise. ValueError when even the longest row does not fit.
    """
    rank, dropout = settings.lora_rank, settings.lora_dropout
    longest = max(len(ids) for ids, _ in rows)
    total = settings.total_steps(len(rows))
    steps = plan_steps(rows, total, settings.batch_size, settings.data_seed, None, None)
    biggest = max(micro.tokens for step in steps for micro in step.micros)
    modes: tuple[Recompute, ...] = ("none", "swiglu", "layer")
    fits = {mode: fitting_tokens(config, rank, mode, ceiling_gib, dropout) for mode in modes}
    for mode in modes[:2]:
        if biggest <= fits[mode]:
            return MemoryPlan(mode, None, peak_gib(config, rank, mode, biggest, dropout))
    for mode in modes[1:]:
        if longest <= fits[mode]:
            return MemoryPlan(mode, fits[mode], peak_gib(config, rank, mode, min(fits[mode], biggest), dropout))
    needed = peak_gib(config, rank, "layer", longest, dropout)
    raise ValueError(
        f"a row of {longest} tokens needs about {needed:.1f} GiB, more than the ceiling of {ceiling_gib:g} GiB: "
        "lower max_length, or raise VRAM_CEILING_GIB on a larger card"
    )
