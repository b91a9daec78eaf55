"""Shared by the modes of bench/fast_lane.py: the model, the rows, the article's settings, the JSON line."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any


def say(mode: str, **figures: Any) -> None:
    """The JSON line of a mode."""
    import torch

    print(json.dumps({"mode": mode, "device": torch.cuda.get_device_name(), "torch": torch.__version__, **figures}))


def settings_of(args: argparse.Namespace, **changes: Any) -> Any:
    """The article's settings, with changes from the command line."""
    from qwen2.training.settings import TrainSettings

    base = TrainSettings(
        num_train_epochs=10, learning_rate=1e-4, lora_rank=8, lora_alpha=32, lora_dropout=args.dropout, batch_size=16,
        warmup_ratio=0.05, save_steps=50, recompute=args.recompute, vram_ceiling_gib=args.ceiling,
        cuda_graphs=not args.no_graphs,
    )  # fmt: skip
    return replace(base, **changes)


def load(args: argparse.Namespace) -> Any:
    """The model on the GPU under the ceiling."""
    import torch

    from qwen2.model import Model

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, args.ceiling * 2**30 / total))
    return Model.load(args.model_dir, "cuda")


def training_rows(args: argparse.Namespace, tokenizer: Any) -> list[Any]:
    """The data set as (ids, labels)."""
    rows = json.loads(Path(args.rows).read_text(encoding="utf-8"))
    return [tokenizer.encode_row(row, "You are a helpful assistant.") for row in rows]
