"""Evaluation during training: held-out rows with the weights of a step, and the choice of the best step; for loop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qwen2.model import ActiveLora, Model
from qwen2.nll import RowScore, measure
from qwen2.training.batches import Row
from qwen2.training.settings import TrainSettings

BATCH_TOKENS = 2048  # of a padded batch of held-out rows
TOKEN_GIB = 150e3 / 2**30  # per token at the 7B shape, and fixed: logits and workspaces
BESIDE_GIB = 0.5


def reserve_gib(rows: Sequence[Row]) -> float:
    """GPU memory that an evaluation of these rows takes during training, in GiB."""
    longest = max((len(ids) for ids, _ in rows), default=0)
    return BESIDE_GIB + TOKEN_GIB * max(BATCH_TOKENS, longest) if rows else 0.0


@dataclass
class Evaluation:
    """The held-out rows of a run, and its best evaluation so far."""

    model: Model
    rows: Sequence[Row]
    settings: TrainSettings
    best: float | None = None
    best_step: int = 0
    since_best: int = 0  # consecutive saves without an improvement
    seen_at_save: float | None = field(default=None, init=False)

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's trainer state."""
        self.best = self.seen_at_save = state.get("best_metric")
        self.best_step = int(state.get("best_global_step") or 0)
        self.since_best = int(state.get("saves_since_best") or 0)

    def state(self) -> dict[str, Any]:
        """The fields for trainer_state.json, by transformers' names."""
        path = f"checkpoint-{self.best_step}" if self.best_step else None
        return {
            "best_metric": self.best,
            "best_global_step": self.best_step or None,
            "best_model_checkpoint": path,
            "saves_since_best": self.since_best,
        }

    def run(self, step: int, lora: ActiveLora) -> tuple[dict[str, float], bool]:
        """Evaluate; returns (figures by their names in the log, whether they are the best so far)."""
        begin = time.perf_counter()
        scores = measure(self.model, self.rows, lora, BATCH_TOKENS)
        seconds = max(time.perf_counter() - begin, 1e-9)
        size = self.settings.per_device_eval_batch_size
        found = {
            "eval_loss": mean_loss(scores, size),
            "eval_token_acc": sum(each.hits for each in scores) / sum(each.labels for each in scores),
            "eval_runtime": seconds,
            "eval_samples_per_second": len(scores) / seconds,
            "eval_steps_per_second": -(-len(scores) // size) / seconds,
        }
        is_best = self.settings.is_better(found[self.settings.metric], self.best)
        if is_best:
            self.best, self.best_step = found[self.settings.metric], step
        return found, is_best

    def is_over(self) -> bool:
        """Called at each save: whether evaluations have stopped improving for long enough (early_stop_interval)."""
        is_new = self.best is None or self.best != self.seen_at_save
        self.since_best = 0 if is_new else self.since_best + 1
        self.seen_at_save = self.best
        limit = self.settings.early_stop_interval
        return limit is not None and self.since_best >= limit


def mean_loss(scores: Sequence[RowScore], size: int) -> float:
    """transformers' eval_loss: the loss per token of each batch of `size` rows, averaged with the rows as weights."""
    total = 0.0
    for start in range(0, len(scores), size):
        batch = scores[start : start + size]
        total += len(batch) * sum(each.nll for each in batch) / sum(each.labels for each in batch)
    return total / len(scores)
