"""The settings of a training run, by ms-swift's names; created by finetune (the fast lane), plan and bench."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from common.i18n import _
from qwen2.config import PROJECTIONS
from qwen2.training.backprop import Recompute
from qwen2.training.batches import Row

METRICS = ("eval_loss", "eval_token_acc")
# Settings that do not affect the arithmetic of a step, so that a run can be resumed with other values.
EVALUATION = (
    *("save_strategy", "eval_strategy", "eval_steps", "per_device_eval_batch_size", "load_best_model_at_end"),
    *("metric_for_best_model", "greater_is_better", "early_stop_interval"),
)


@dataclass(frozen=True)
class TrainSettings:
    """Names and defaults are ms-swift's, except batch_size: the rows of one optimizer step, however it is split."""

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
    save_strategy: str = "steps"  # or epoch
    eval_strategy: str | None = None  # steps, epoch or no; None: as save_strategy
    eval_steps: int | None = None  # None: save_steps
    per_device_eval_batch_size: int = 1  # rows per part of the mean eval_loss, as in ms-swift; no other use
    load_best_model_at_end: bool = False
    metric_for_best_model: str = "loss"  # or token_acc
    greater_is_better: bool | None = None  # None: as the metric requires
    early_stop_interval: int | None = None  # consecutive saves without a better evaluation that end the training

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
            "save_strategy": self.save_strategy in ("steps", "epoch"),
            "eval_strategy": self.eval_strategy in (None, "no", "steps", "epoch"),
            "eval_steps": self.eval_steps is None or self.eval_steps >= 1,
            "per_device_eval_batch_size": self.per_device_eval_batch_size >= 1,
            "metric_for_best_model": self.metric in METRICS,
            "early_stop_interval": self.early_stop_interval is None or self.early_stop_interval >= 1,
            "vram_ceiling_gib": self.vram_ceiling_gib is None or self.vram_ceiling_gib > 0,
        }
        for name, is_fine in checks.items():
            if not is_fine:
                raise ValueError(
                    _("{name} {value} is out of range; configs/sft.yaml says what it may be").format(
                        name=name, value=getattr(self, name)
                    )
                )

    @property
    def metric(self) -> str:
        """The evaluation figure that decides which is best, by its name in the log."""
        return f"eval_{self.metric_for_best_model.removeprefix('eval_')}"

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether an evaluation's metric is better than the best one before."""
        wants_more = self.greater_is_better if self.greater_is_better is not None else "loss" not in self.metric
        return than is None or (value > than if wants_more else value < than)

    def is_save_due(self, count: int, rows: int, total: int) -> bool:
        """Whether a checkpoint is saved after `count` steps."""
        return count == total or self._is_due(self.save_strategy, self.save_steps, count, rows)

    def is_eval_due(self, count: int, rows: int, total: int) -> bool:
        """Whether held-out rows are evaluated after `count` steps: at the end as well, as ms-swift does."""
        strategy = self.eval_strategy or self.save_strategy
        if strategy == "no":
            return False
        return count == total or self._is_due(strategy, self.eval_steps or self.save_steps, count, rows)

    def _is_due(self, strategy: str, every: int, count: int, rows: int) -> bool:
        return count % (every if strategy == "steps" else self.steps_per_epoch(rows)) == 0

    def total_steps(self, rows: int) -> int:
        """Optimizer steps for that many rows: the last batch of an epoch may be smaller."""
        if self.max_steps > 0:
            return self.max_steps
        return math.ceil(self.num_train_epochs * self.steps_per_epoch(rows))

    def steps_per_epoch(self, rows: int) -> int:
        """Batches per epoch."""
        return -(-rows // self.batch_size)

    def learning_rate_at(self, step: int, total: int) -> float:
        """Learning rate of step `step`, from 0 (the schedules of transformers.optimization: a warm-up starts at 0)."""
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
        """What a resumed run must share with the stopped one: the data and everything that enters the arithmetic."""
        free = (
            *EVALUATION,
            "save_steps",
            "save_total_limit",
            "logging_steps",
            "logging_first_step",
            "vram_ceiling_gib",
            "cuda_graphs",
        )
        # Splitting a step changes only its dropout masks and rounding; it depends on the GPU at hand.
        split = {"micro_batch_size": None, "micro_batch_tokens": None}
        parts = {k: v for k, v in asdict(self).items() if k not in (*free, "recompute")} | split
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
        for ids, labels in rows:
            digest.update(json.dumps([list(ids), list(labels)]).encode())
        return digest.hexdigest()
