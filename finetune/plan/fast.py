"""The fast lane's choice for the same data; called by the command. Imports torch, hence only when needed."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.plan.speed import weights_scale
from qwen2.config import PROJECTIONS, Config

START_S = 2.5  # start-up cost of further processes: NCCL, and loading the weights again (docs/performance.md)
SUM_S = 0.002  # to add up the gradients of a step
SAMPLE = 4096  # rows used for planning; a run plans with all of its rows


@dataclass(frozen=True)
class FastPlan:
    """The choice of qwen2.training.memory. `micro_batch_tokens` None: batches are not split. Step seconds: H100."""

    recompute: str
    micro_batch_tokens: int | None
    peak_gib: float
    seconds_per_step: float


def cards_seconds(
    shape: Config,
    lengths: Sequence[int],
    most: int,
    batch: int,
    ceiling_gib: float,
    rank: int,
    dropout: float,
    targets: tuple[str, ...],
    epochs: float,
    max_steps: int,
) -> dict[int, float]:
    """{GPUs: seconds of training}, from 1 to `most`, with process start-up; H100. Omits numbers that do not fit."""
    steps = max_steps if max_steps > 0 else math.ceil(epochs * -(-len(lengths) // batch))
    found = {}
    for count in range(1, most + 1):
        plan = plan_fast(shape, lengths, batch, ceiling_gib, rank, dropout, targets, processes=count)
        if isinstance(plan, FastPlan):
            found[count] = steps * plan.seconds_per_step * weights_scale(shape) + (
                START_S + SUM_S * steps if count > 1 else 0.0
            )
    return found


def plan_fast(
    shape: Config,
    lengths: Sequence[int],
    batch: int,
    ceiling_gib: float,
    rank: int = 8,
    dropout: float = 0.05,
    targets: tuple[str, ...] = PROJECTIONS,
    slower: tuple[float, float] = (1.0, 1.0),
    processes: int = 1,
) -> FastPlan | str:
    """The plan, or the reason why there is none. Assumes that all tokens have a loss.

    `slower` holds how much slower than an H100 the GPU reads and computes; the slowest of several processes counts.
    """
    from qwen2.training import memory
    from qwen2.training.batches import plan_steps, step_ms
    from qwen2.training.settings import TrainSettings

    settings = TrainSettings(
        num_train_epochs=1, batch_size=batch, lora_rank=rank, lora_dropout=dropout, target_modules=targets
    )
    some = lengths if len(lengths) <= SAMPLE else [max(lengths), *random.Random(0).sample(list(lengths), SAMPLE - 1)]
    rows = [(range(length), range(length)) for length in some]
    try:
        found = memory.plan(shape, settings, rows, ceiling_gib, processes)
    except ValueError as error:
        return str(error)
    total = settings.total_steps(len(rows))
    cut = (rows, total, batch, settings.data_seed, None, found.micro_batch_tokens)
    again = 4 / 3 if found.recompute == "layer" else 1.0  # the forward pass runs twice
    shares = [
        [
            sum(step_ms(micro.tokens, slower) * again for micro in step.micros)
            for step in plan_steps(*cut, process, processes)
        ]
        for process in range(processes)
    ]
    milliseconds = sum(map(max, zip(*shares, strict=True)))
    return FastPlan(found.recompute, found.micro_batch_tokens, round(found.peak_gib, 2), milliseconds / total / 1000)
