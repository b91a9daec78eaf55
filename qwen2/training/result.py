"""The outcome of a training run: its result, or the error that ended it early; created by training/loop.py."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from common.i18n import _
from qwen2.lora import Adapter


@dataclass
class TrainResult:
    """The result. Lists have one entry per step; seconds cover the loop only, without captures and set-up."""

    adapter: Adapter
    checkpoint: Path
    steps: int
    losses: list[float]
    grad_norms: list[float]
    seconds: float
    setup_seconds: float
    tokens: int
    step_ms: list[float] = field(default_factory=list)
    peak_allocated_gib: float = 0.0
    peak_reserved_gib: float = 0.0


class DivergedError(RuntimeError):
    """The loss or the gradient is no longer finite; the message is a sentence for the user."""


class StoppedError(RuntimeError):
    """`stop` ended the run after step `step`; it can be resumed from `checkpoint`."""

    def __init__(self, step: int, checkpoint: Path) -> None:
        super().__init__(f"stopped after step {step}, saved in {checkpoint}")
        self.step, self.checkpoint = step, checkpoint


def finite(history: Tensor) -> list[list[float]]:
    """(loss, gradient norm, hits) of every step. Raises DivergedError if a loss or a norm is not finite."""
    figures = history.tolist()
    for number, (loss, norm, _hits) in enumerate(figures, 1):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(
                _(
                    "the loss became {loss} (gradient norm {norm}) at step {number}: lower learning_rate, or "
                    "look at the rows of that batch; checkpoints before that step are intact"
                ).format(loss=loss, norm=norm, number=number)
            )
    return figures


def peak_gib(device: torch.device) -> tuple[float, float]:
    """Peak GPU memory, allocated and reserved, since the peaks were reset; 0 on a CPU."""
    if device.type != "cuda":
        return 0.0, 0.0
    return torch.cuda.max_memory_allocated(device) / 2**30, torch.cuda.max_memory_reserved(device) / 2**30
