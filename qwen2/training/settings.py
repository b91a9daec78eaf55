"""What a training takes: TrainSettings, by ms-swift's names; made by finetune (the fast lane), plan and bench."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from qwen2.config import PROJECTIONS
from qwen2.training.backprop import Recompute
from qwen2.training.batches import Row


@dataclass(frozen=True)
class TrainSettings:
    """Names and defaults are ms-swift's, but for batch_size: the rows of one optimizer step, however it is split."""

    num_train_epochs: float = 3.0
    max_steps: int = -1
    learning_rate: float = 1e-4
    lora_rank: int = 8
    lora_alpha: float = 32
    lora_dropout: float = 0.05
    use_rslora: bool = False
    target_modules: tuple[str, ...] = PROJECTIONS
    batch_size: int = 16
    micro_batch_size: int | None = None  # rows; None: the whole batch at once
    micro_batch_tokens: int | None = None  # tokens; None: no limit
    lr_scheduler_type: str = "cosine"  # or linear, constant, constant_with_warmup
    warmup_ratio: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    seed: int = 42
    data_seed: int = 42
    save_steps: int = 500
    save_total_limit: int | None = None
    logging_steps: int = 5
    logging_first_step: bool = True
    recompute: Recompute = "none"
    vram_ceiling_gib: float | None = None
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for out-of-range settings."""
        checks = {
            "num_train_epochs": self.num_train_epochs > 0,
            "learning_rate": self.learning_rate >= 0,
            "lora_rank": self.lora_rank >= 1,
            "lora_dropout": 0 <= self.lora_dropout < 1,
            "batch_size": self.batch_size >= 1,
            "micro_batch_size": self.micro_batch_size is None or self.micro_batch_size >= 1,
            "micro_batch_tokens": self.micro_batch_tokens is None or self.micro_batch_tokens >= 1,
            "lr_scheduler_type": self.lr_scheduler_type in ("cosine", "linear", "constant", "constant_with_warmup"),
            "warmup_ratio": 0 <= self.warmup_ratio < 1,
            "warmup_steps": self.warmup_steps >= 0,
            "weight_decay": self.weight_decay >= 0,
            "save_steps": self.save_steps >= 1,
            "save_total_limit": self.save_total_limit is None or self.save_total_limit >= 1,
            "logging_steps": self.logging_steps >= 1,
            "recompute": self.recompute in ("none", "swiglu", "layer"),
            "vram_ceiling_gib": self.vram_ceiling_gib is None or self.vram_ceiling_gib > 0,
        }
        for name, is_fine in checks.items():
            if not is_fine:
                raise ValueError(
                    f"{name} {getattr(self, name)} is not possible: see configs/sft.yaml for what it may be"
                )

    def total_steps(self, rows: int) -> int:
        """Optimizer steps for that many rows: an epoch's last batch may be smaller."""
        if self.max_steps > 0:
            return self.max_steps
        return math.ceil(self.num_train_epochs * self.steps_per_epoch(rows))

    def steps_per_epoch(self, rows: int) -> int:
        """Batches of an epoch."""
        return -(-rows // self.batch_size)

    def learning_rate_at(self, step: int, total: int) -> float:
        """Rate of step `step`, from 0 on (transformers.optimization's schedules: a warm-up begins at 0)."""
        warmup = self.warmup_steps or math.ceil(total * self.warmup_ratio)
        if self.lr_scheduler_type == "constant":
            return self.learning_rate
        if step < warmup:
            return self.learning_rate * step / max(1, warmup)
        progress = (step - warmup) / max(1, total - warmup)
        if self.lr_scheduler_type == "cosine":
            return self.learning_rate * max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))
        return self.learning_rate * (max(0.0, 1 - progress) if self.lr_scheduler_type == "linear" else 1.0)

    def fingerprint(self, rows: Sequence[Row]) -> str:
        """What a resumed run must share with the one that was stopped: the data and all that enters the arithmetic."""
        free = (
            "save_steps",
            "save_total_limit",
            "logging_steps",
            "logging_first_step",
            "vram_ceiling_gib",
            "cuda_graphs",
        )
        # How a step is split changes no more than its dropout masks and rounding; the card decides it anew.
        split = {"micro_batch_size": None, "micro_batch_tokens": None}
        parts = {k: v for k, v in asdict(self).items() if k not in (*free, "recompute")} | split
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
        for ids, labels in rows:
            digest.update(json.dumps([list(ids), list(labels)]).encode())
        return digest.hexdigest()
