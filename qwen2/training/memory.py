"""Estimates GPU memory and chooses recomputation and micro-batch to fit a ceiling; called by finetune's plan and bench.

The estimate counts what backprop keeps, tensor by tensor; the constants come from measured peaks (docs/fast-lane.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.i18n import _
from qwen2.config import GROUPS, PROJECTIONS, Config
from qwen2.lora import Layout
from qwen2.model import LOADED_RANK, padded_columns
from qwen2.training.backprop import Recompute, head_rows
from qwen2.training.batches import TOKEN_UNIT, Row, largest_batch, up
from qwen2.training.settings import TrainSettings

GIB = 2**30
# Fitted to 60 peaks of five shapes, 0.5B to 14B: docs/plan.md. The allocator reserves more than is allocated. The
# excess grows with the size of its blocks and is largest where whole layers are allocated and freed.
WORKSPACES = 0.23  # GiB: cuBLAS workspaces, rotary tables, small tensors
SECOND_PIECE = 0.045  # GiB: cost of another chunk of logits, if logits determine the peak
SLACK_FIXED = 0.0615  # of the bytes that do not grow with the batch
SLACK_GROWING = 0.0173  # of the bytes that do
SLACK_LAYER = 0.1124  # of the same bytes with whole layers recomputed
# Columns that Model.load leaves next to every matmul, for its default rank, whatever rank is trained.
LOADED_COLUMNS = {group: padded_columns(LOADED_RANK * len(paths)) for group, paths in GROUPS.items()}


@dataclass(frozen=True)
class MemoryPlan:
    """How to train under a ceiling. `micro_batch_tokens` None: no batch is split; `peak_gib` is the estimate."""

    recompute: Recompute
    micro_batch_tokens: int | None
    peak_gib: float


@dataclass(frozen=True)
class _Counted:
    """The part that does not depend on a micro-batch's number of tokens; see `peak_gib`."""

    fixed_gib: float
    kept: int
    passing: int
    vocab_size: int
    slack: float

    def peak_gib(self, tokens: int, labels: int | None = None) -> float:
        """Estimate of the reserved peak for micro-batches of that many tokens; `labels` of them have a loss."""
        size = up(tokens, TOKEN_UNIT)
        carrying, piece = size if labels is None else labels, head_rows(size)
        logits = min(piece, carrying) * self.vocab_size * (4 + 2)
        growing = (size * self.kept + max(size * self.passing, logits)) / GIB
        again = SECOND_PIECE if carrying > 2 * piece and logits >= size * self.passing else 0.0
        return WORKSPACES + again + self.fixed_gib * (1 + SLACK_FIXED) + growing * (1 + self.slack)


def _counted(config: Config, rank: int, recompute: Recompute, dropout: float, targets: Sequence[str]) -> _Counted:
    layout = Layout(config, rank, targets)
    kept, passing = _token_bytes(config, layout, recompute, dropout)
    slack = SLACK_LAYER if recompute == "layer" else SLACK_GROWING
    return _Counted(_fixed_gib(config, layout), kept, passing, config.vocab_size, slack)


def _fixed_gib(config: Config, layout: Layout) -> float:
    """GiB that do not grow with the batch: bfloat16 weights with spare columns, the adapter with its optimizer."""
    h, i, width = config.hidden_size, config.intermediate_size, 2
    heads = 1 if config.tie_embeddings else 2
    qkv = config.q_size + 2 * config.kv_size
    spare = {group: max(columns, layout.columns(group)) for group, columns in LOADED_COLUMNS.items()}
    layer = qkv * (h + spare["qkv"]) + h * (config.q_size + spare["o"])
    layer += 2 * i * (h + spare["gate_up"]) + h * (i + spare["down"]) + 2 * h + qkv
    weights = (config.num_layers * layer + heads * config.vocab_size * h) * width
    return (weights + layout.size * (4 * 4 + width)) / GIB


def _token_bytes(config: Config, layout: Layout, recompute: Recompute, dropout: float) -> tuple[int, int]:
    """(bytes per token kept in all layers for the backward pass, bytes per token used while passing through one)."""
    h, i, width = config.hidden_size, config.intermediate_size, 2
    columns = layout.columns
    layer = 2 * h + config.q_size + 2 * config.kv_size + config.q_size + columns("o") + 2 * i
    layer_bytes = layer * width + 4 * config.num_heads
    # The widest point is the backward pass of the MLP, with a dropped-out copy of the input for each target.
    dropped = i if "down" in layout.groups else h * len(layout.groups.get("gate_up", ()))
    passing = (3 * i + 6 * h + (dropped if dropout > 0 else 0)) * width
    if recompute == "layer":
        # whole layers are allocated and freed: fragmentation grows with the micro-batch
        return config.num_layers * h * width, layer_bytes + passing + 2 * i * width
    if recompute == "none":
        layer_bytes += (2 * h + i + columns("qkv") + columns("gate_up") + columns("down")) * width
    return config.num_layers * layer_bytes, passing


def peak_gib(
    config: Config,
    rank: int,
    recompute: Recompute,
    tokens: int,
    dropout: float = 0.0,
    targets: Sequence[str] = PROJECTIONS,
    labels: int | None = None,
) -> float:
    """Estimate of the reserved peak for micro-batches of that many tokens, with LoRA of that rank on `targets`.

    `labels` is how many of them have a loss. None means all, which a plan assumes.
    """
    return _counted(config, rank, recompute, dropout, targets).peak_gib(tokens, labels)


def _fitting_tokens(config: Config, counted: _Counted, ceiling_gib: float) -> int:
    """Maximum tokens of a micro-batch under the ceiling, in units of TOKEN_UNIT; 0 if none fit."""
    low, high = 0, config.max_positions * 8 // TOKEN_UNIT
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if counted.peak_gib(middle * TOKEN_UNIT) <= ceiling_gib else (low, middle - 1)
    return low * TOKEN_UNIT


def plan(
    config: Config, settings: TrainSettings, rows: Sequence[Row], ceiling_gib: float, processes: int = 1
) -> MemoryPlan:
    """The fastest settings that fit: whole batches, else split at the largest size with little recomputation.

    Splitting costs almost nothing as long as a part has some hundreds of tokens. Recomputing whole layers costs a
    quarter, so it is used only for rows that are too long otherwise. `processes` share a batch, each on its own GPU.
    Raises ValueError if even the longest row does not fit.
    """
    longest, biggest = _sizes(settings, rows, processes)
    modes: tuple[Recompute, ...] = ("none", "swiglu", "layer")
    counted = {mode: _of(config, settings, mode) for mode in modes}
    for mode in modes[:2]:
        if (peak := counted[mode].peak_gib(biggest)) <= ceiling_gib:
            return MemoryPlan(mode, None, peak)
    for mode in modes[1:]:
        fitting = _fitting_tokens(config, counted[mode], ceiling_gib)
        if longest <= fitting:
            return MemoryPlan(mode, fitting, counted[mode].peak_gib(min(fitting, biggest)))
    needed = counted["layer"].peak_gib(longest)
    raise ValueError(
        _(
            "a row of {longest} tokens needs about {needed:.1f} GiB, more than the ceiling of "
            "{ceiling_gib:g} GiB: lower max_length, or raise VRAM_CEILING_GIB on a larger card"
        ).format(longest=longest, needed=needed, ceiling_gib=ceiling_gib)
    )


def as_split(
    config: Config,
    settings: TrainSettings,
    rows: Sequence[Row],
    ceiling_gib: float,
    recompute: Recompute,
    micro_batch_tokens: int | None,
    processes: int = 1,
) -> MemoryPlan | None:
    """The plan for a checkpoint's split of the batch; None if it does not fit under the ceiling."""
    longest, biggest = _sizes(settings, rows, processes)
    tokens = biggest if micro_batch_tokens is None else min(biggest, max(micro_batch_tokens, longest))
    peak = _of(config, settings, recompute).peak_gib(tokens)
    return MemoryPlan(recompute, micro_batch_tokens, peak) if peak <= ceiling_gib else None


def _of(config: Config, settings: TrainSettings, recompute: Recompute) -> _Counted:
    return _counted(config, settings.lora_rank, recompute, settings.lora_dropout, settings.target_modules)


def _sizes(settings: TrainSettings, rows: Sequence[Row], processes: int = 1) -> tuple[int, int]:
    """(tokens of the longest row, of the largest batch, or of the largest share of one: see batches.share)."""
    lengths = [len(ids) for ids, _ in rows]
    longest, total = max(lengths), settings.total_steps(len(rows))
    biggest = largest_batch(lengths, total, settings.batch_size, settings.data_seed)
    return longest, min(biggest, -(-biggest // processes) + longest * (processes - 1) // processes)
