"""logging.jsonl of a training run, line by line in ms-swift's format; read by TensorBoard events, curves and verify."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from qwen2.config import Config
from qwen2.training.batches import Step
from qwen2.training.settings import TrainSettings

LOG_FILE = "logging.jsonl"


class RunLog:
    """The lines of one run, and its clock. Figures are rows of (loss, gradient norm, hits), one per step."""

    def __init__(
        self,
        folder: Path,
        settings: TrainSettings,
        steps: list[Step],
        rows: int,
        device: torch.device,
        state: dict[str, Any],
    ) -> None:
        """`state` is trainer_state.json of the resumed checkpoint, {} for a new run."""
        self.file, self.settings, self.steps, self.device = folder / LOG_FILE, settings, steps, device
        self.total = len(steps)
        self.steps_per_epoch = settings.steps_per_epoch(rows)
        self.lines: list[dict[str, Any]] = list(state.get("log_lines", []))
        self.logged_until = int(state.get("logged_until", 0))
        self.elapsed_before = float(state.get("elapsed", 0.0))
        self.begin = time.perf_counter()

    def start(self) -> None:
        """Start the clock, and write logging.jsonl as it was: empty, or up to the resumed checkpoint."""
        lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in self.lines]
        self.file.write_text("".join(lines), encoding="utf-8")
        self.begin = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds in the loop, including those before the resumed checkpoint."""
        return self.elapsed_before + time.perf_counter() - self.begin

    def epoch(self, count: int) -> float:
        """ms-swift's epoch at a step: a whole number at each epoch's last batch."""
        return count / self.steps_per_epoch

    def is_due(self, count: int) -> bool:
        """Whether a line is written after `count` steps."""
        return count % self.settings.logging_steps == 0 or (count == 1 and self.settings.logging_first_step)

    def step(self, count: int, figures: list[list[float]]) -> dict[str, Any]:
        """Write and return the line for the steps since the last one; `figures` are those of the first `count`."""
        window = range(self.logged_until, count)
        line: dict[str, Any] = {
            "loss": round(sum(figures[n][0] for n in window) / len(window), 8),
            "grad_norm": round(figures[-1][1], 8),
            # transformers logs the rate after the scheduler's step, which is the next step's
            "learning_rate": round(self.settings.learning_rate_at(count, self.total), 8),
            "token_acc": round(sum(figures[n][2] for n in window) / sum(self.steps[n].labels for n in window), 8),
            "epoch": round(self.epoch(count), 8),
        }
        line |= self._times(count)
        self.logged_until = count
        self._write(line)
        return line

    def evaluated(self, count: int, figures: Mapping[str, float]) -> dict[str, Any]:
        """Write and return the line of an evaluation after `count` steps; `figures` by their names in the log."""
        line: dict[str, Any] = {name: round(value, 8) for name, value in figures.items()}
        line |= {"epoch": round(self.epoch(count), 8)} | self._times(count)
        self._write(line)
        return line

    def _times(self, count: int) -> dict[str, Any]:
        elapsed = self.elapsed()
        line: dict[str, Any] = {
            "global_step/max_steps": f"{count}/{self.total}",
            "elapsed_time": format_time(elapsed),
            "remaining_time": format_time(elapsed / count * (self.total - count)),
        }
        if self.device.type == "cuda":
            line["memory(GiB)"] = round(torch.cuda.max_memory_reserved(self.device) / 2**30, 2)
        return line | {"train_speed(s/it)": round(elapsed / count, 6)}

    def history(self) -> list[dict[str, Any]]:
        """transformers' log_history, from the lines logged."""
        names = ("loss", "grad_norm", "learning_rate", "token_acc", "epoch")
        return [
            {name: value for name, value in line.items() if name in names or name.startswith("eval_")}
            | {"step": int(line["global_step/max_steps"].split("/")[0])}
            for line in self.lines
        ]

    def end(
        self,
        figures: list[list[float]],
        config: Config,
        trained: int,
        saved: Path,
        best: tuple[float | None, Path | None],
        reserved_gib: float,
    ) -> None:
        """Write the two final lines, as ms-swift does.

        Args:
            figures: those of all completed steps.
            config: the model's shape, for its number of parameters.
            trained: parameters of the adapter.
            saved: the last checkpoint.
            best: the best evaluation's metric, and its checkpoint.
            reserved_gib: peak of reserved GPU memory in GiB, 0 on a CPU.
        """
        elapsed, done = self.elapsed(), len(figures)
        log_history = self.history()
        embedding = config.vocab_size * config.hidden_size
        base = config.linear_parameters + embedding * (1 if config.tie_embeddings else 2)
        tokens = sum(step.tokens for step in self.steps[:done])
        rows = sum(step.rows for step in self.steps[:done])
        line: dict[str, Any] = {
            "train_runtime": round(elapsed, 4),
            "train_samples_per_second": round(rows / elapsed, 3),
            "train_steps_per_second": round(done / elapsed, 3),
            # transformers' estimate: 6 x tokens x parameters without the embedding
            "total_flos": 6.0 * tokens * (base - embedding),
            "train_loss": round(sum(loss for loss, _, _ in figures) / len(figures), 8),
            "token_acc": round(figures[-1][2] / self.steps[done - 1].labels, 8),
            "epoch": round(self.epoch(done), 8),
            "global_step/max_steps": f"{done}/{self.total}",
            "elapsed_time": format_time(elapsed),
            "remaining_time": "0s",
        }
        if self.device.type == "cuda":
            line["memory(GiB)"] = round(reserved_gib, 2)
        line["train_speed(s/it)"] = round(elapsed / done, 6)
        self._write(line)
        self._write(
            {
                "model_parameter_info": f"Qwen2ForCausalLM with LoRA: {(base + trained) / 1e6:.4f}M Params "
                f"({trained / 1e6:.4f}M Trainable [{100 * trained / (base + trained):.4f}%]).",
                "last_model_checkpoint": str(saved),
                "best_model_checkpoint": str(best[1]) if best[1] else None,
                "best_metric": best[0],
                "global_step": done,
                "log_history": log_history,
                "memory": round(reserved_gib, 2),
            }
        )

    def _write(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def format_time(seconds: float) -> str:
    """A duration in ms-swift's format: 5s, 1m 5s, 1h 1m 5s, 1d 1h 1m 5s."""
    total = round(seconds)
    days, hours, minutes = total // 86400, total % 86400 // 3600, total % 3600 // 60
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (total % 60, "s")]
    while len(parts) > 1 and parts[0][0] == 0:
        parts.pop(0)
    return " ".join(f"{value}{unit}" for value, unit in parts)
