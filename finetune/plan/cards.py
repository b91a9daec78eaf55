"""Estimated times for GPUs that are not present, from their published bandwidth and FLOPs; shown by `plan`.

The H100's own times are measured (docs/plan.md, docs/fast-lane.md). Arithmetic is assumed to scale with the published
dense bfloat16 tensor FLOPs with float32 accumulation, and work bound by reading weights with the memory bandwidth. The
launch time of ms-swift's kernels depends on the CPU and is the same for every GPU. The other GPUs have not been
measured: power limits, cooling and drivers may well make a run half as fast again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import UserError
from common.i18n import N_
from finetune.plan.fast import plan_fast
from finetune.plan.planned_run import PlannedRun
from finetune.plan.swift import card_ceiling, named, plan_swift, step_seconds


@dataclass(frozen=True)
class Known:
    """A GPU as published by its vendor: GiB, GB/s, dense bfloat16 TFLOPS with float32 accumulation."""

    name: str
    gib: int
    gb_s: float
    tflops: float


# NVIDIA's Ada, Ampere GA102, A100 and H100 whitepapers (SXM parts of the last two). The 4090 D is in none of them: it
# has 14,592 cores at 2.52 GHz, the 4090 16,384 at the same clock.
CARDS = (
    Known("RTX 4090", 24, 1008, 165.2),
    Known("RTX 4090 D", 24, 1008, 147.1),
    Known("RTX 3090", 24, 936, 71.0),
    Known("RTX 4080 16 GB", 16, 717, 97.5),
    Known("A100 80 GB", 80, 2039, 312.0),
    Known("H100 80 GB", 80, 3350, 989.4),
)
H100 = CARDS[-1]
FAST, SWIFT, FOUR_BIT = N_("fast lane"), "ms-swift", N_("ms-swift, 4-bit base")
# Bytes moved per weight when a 4-bit linear is unpacked: read packed, then written and read in bfloat16.
UNPACKED = 0.52 + 2 + 2


@dataclass(frozen=True)
class Estimate:
    """The engine that would train on a GPU, and its time; `engine` None: nothing fits."""

    card: Known
    engine: str | None
    peak_gib: float = 0.0
    hours: float = 0.0


def estimates(found: PlannedRun, engines: Sequence[str] = (FAST, SWIFT, FOUR_BIT)) -> list[Estimate]:
    """For each GPU, by the first engine whose plan fits."""
    return [_estimate(found, card, engines) for card in CARDS]


def _estimate(found: PlannedRun, card: Known, engines: Sequence[str]) -> Estimate:
    for engine in engines:
        if engine == FAST and found.quant_bits:
            continue
        fitting = _fast(found, card) if engine == FAST else _swift(found, card, engine == FOUR_BIT)
        if fitting:
            peak, seconds = fitting
            four_bit = engine != FAST and (engine == FOUR_BIT or found.quant_bits == 4)
            return Estimate(card, FOUR_BIT if four_bit else engine, peak, found.steps * seconds / 3600)
    return Estimate(card, None)


def _fast(found: PlannedRun, card: Known) -> tuple[float, float] | None:
    """(peak, seconds per step); None if it does not fit."""
    slower = (H100.gb_s / card.gb_s, H100.tflops / card.tflops)
    targets = named(found.targets)
    ceiling = card_ceiling(card.gib)
    plan = plan_fast(found.shape, found.lengths, found.batch, ceiling, found.rank, found.dropout, targets, slower)
    return None if isinstance(plan, str) else (plan.peak_gib, plan.seconds_per_step)


def _swift(found: PlannedRun, card: Known, four_bit: bool) -> tuple[float, float] | None:
    bits = 4 if four_bit else found.quant_bits
    try:
        plan = plan_swift(
            found.shape, found.lengths, found.batch, card_ceiling(card.gib), found.rank, found.targets, bits
        )
    except UserError:
        return None
    order = list(found.lengths)
    random.Random(0).shuffle(order)
    size, checkpointing = plan.per_device_train_batch_size, plan.gradient_checkpointing
    seconds = step_seconds(
        found.shape, order, found.batch, size, checkpointing, plan.use_liger_kernel, H100.tflops / card.tflops
    )
    if bits == 4:
        passes = 3 if checkpointing else 2
        moved = UNPACKED * found.shape.linear_parameters * passes * plan.gradient_accumulation_steps
        seconds += moved / (card.gb_s * 1e9)
    return plan.peak_gib, seconds


def duration(hours: float) -> str:
    """A duration for people, rounded to its accuracy."""
    seconds = hours * 3600
    if seconds < 90:
        return f"{max(1, round(seconds)):d} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{hours:.1f} h"
