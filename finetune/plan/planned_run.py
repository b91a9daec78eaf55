"""What is to be planned: the config file's options and the data's token lengths; read by the command."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
from finetune.data.check import Options, default_heldout, in_one_line, require
from finetune.engines.swift import config_file
from qwen2.config import Config

MAX_LENGTH = 2048  # the article's, where neither the command nor the config has one


@dataclass(frozen=True)
class Job:
    """One run, as far as its memory and time go. `lengths` may be a sample; `rows` counts all that are trained on."""

    shape: Config
    lengths: list[int]
    rows: int
    batch: int
    epochs: float
    rank: int
    dropout: float
    targets: list[str]
    quant_bits: int | None
    max_length: int
    data: str  # the data in one line
    notes: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Optimizer steps: an epoch's last batch may be smaller."""
        return math.ceil(self.epochs * math.ceil(self.rows / self.batch))

    def minutes(self, seconds_per_step: float) -> float:
        """Of all steps, on an H100, without starting up."""
        return self.steps * seconds_per_step / 60


def shape_of(model_dir: Path) -> Config:
    """The model's sizes from config.json. UserError when the folder holds no plain Qwen2."""
    try:
        return Config.from_dir(model_dir)
    except ValueError as error:
        raise UserError(f"plan: {error}") from None


def read(file: Path, model_dir: Path, datasets: Sequence[str] | None, max_length: int | None) -> Job:
    """Options of the file; the data named, or the file's own, below the folder above. Raises UserError."""
    options = config_file.load(file)
    shape = shape_of(model_dir)
    limit = max_length if max_length is not None else int(_number(file, options, "max_length", MAX_LENGTH))
    if limit < 1:
        raise UserError(f"plan: max_length {limit}: is no number of tokens; the article's is {MAX_LENGTH}")
    specs = list(datasets) if datasets else _list(options.get("dataset"))
    if not specs:
        raise UserError(f"plan: {file} names no dataset; name one with --dataset FILE")
    system = options.get("system")
    looked = Options(
        model_dir=model_dir,
        system=str(system) if system is not None else None,
        max_length=limit,
        heldout=default_heldout(),
    )
    lengths: list[int] = []
    rows = 0
    notes: list[str] = []
    found = require(specs, None if datasets else file.resolve().parent.parent, looked)
    for source, report in found:
        if report is None:  # a hub's rows are not here yet: any of them may be as long as allowed
            lengths.append(limit)
            rows += source.sample or 0
            notes.append(f"{source.spec}: not fetched yet, so its rows are planned as {limit} tokens (max_length)")
            continue
        fitting = [length for length in report.lengths if length <= limit]
        dropped = len(report.numbers.get("too long", []))
        if dropped:
            notes.append(f"{report.file}: {dropped} rows are longer than max_length {limit} and left out")
        if report.sampled:
            fitting.append(limit)
            notes.append(f"{report.file}: only a sample was counted, so the longest row is taken to be {limit} tokens")
        lengths += fitting
        rows += source.sample if source.sample is not None else report.rows - dropped
    reports = [report for _, report in found if report]
    gathered = int(_number(file, options, "gradient_accumulation_steps", 1))
    bits = options.get("quant_bits")
    return Job(
        shape=shape,
        lengths=lengths,
        rows=rows,
        batch=int(_number(file, options, "per_device_train_batch_size", 1)) * gathered,
        epochs=_number(file, options, "num_train_epochs", 3),
        rank=int(_number(file, options, "lora_rank", 8)),
        dropout=_number(file, options, "lora_dropout", 0.05),
        targets=_list(options.get("target_modules", ["all-linear"])),
        quant_bits=int(_number(file, options, "quant_bits", 0)) if bits else None,
        max_length=limit,
        data=in_one_line(reports) if reports else ", ".join(specs),
        notes=notes,
    )


def _number(file: Path, options: dict[str, Any], name: str, default: float) -> float:
    value = options.get(name, default)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{file}: {name}: {value!r} is no number; see configs/sft.yaml") from None


def _list(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list) else str(value).split()
