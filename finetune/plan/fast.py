"""What the fast lane would choose for the same data; called by the command. Imports torch, hence only when needed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from qwen2.config import PROJECTIONS, Config

SAMPLE = 4096  # rows that are planned with: a run plans with all of its own


@dataclass(frozen=True)
class FastPlan:
    """The choice of qwen2.training.memory. `micro_batch_tokens` None: a batch in one piece. Seconds of a step, H100."""

    recompute: str
    micro_batch_tokens: int | None
    peak_gib: float
    seconds_per_step: float


def plan_fast(
    shape: Config,
    lengths: Sequence[int],
    batch: int,
    ceiling_gib: float,
    rank: int = 8,
    dropout: float = 0.05,
    targets: tuple[str, ...] = PROJECTIONS,
    slower: tuple[float, float] = (1.0, 1.0),
) -> FastPlan | str:
    """The plan, or in words why there is none. All tokens count as if they carried loss.

    `slower` is how much slower than an H100 the card reads, and computes.
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
        found = memory.plan(shape, settings, rows, ceiling_gib)
    except ValueError as error:
        return str(error)
    steps = plan_steps(rows, settings.total_steps(len(rows)), batch, settings.data_seed, None, found.micro_batch_tokens)
    again = 4 / 3 if found.recompute == "layer" else 1.0  # the forward pass runs twice
    milliseconds = sum(step_ms(micro.tokens, slower) * again for step in steps for micro in step.micros)
    return FastPlan(
        found.recompute, found.micro_batch_tokens, round(found.peak_gib, 2), milliseconds / len(steps) / 1000
    )
