"""The run to plan: the config file's options and the data's token lengths; read by the command."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.i18n import _
from common.model_kind import kind_of
from finetune.data.check import default_heldout, in_one_line, require
from finetune.data.findings import CheckOptions
from finetune.engines.swift import config_file, ranges
from qwen2.config import Config

# The model that a test model stands for, since nobody plans for it (a test compares it with the official config.json).
REAL = "Qwen2.5-7B-Instruct"
REAL_SHAPE = Config(
    hidden_size=3584,
    intermediate_size=18944,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    vocab_size=152064,
    max_positions=32768,
    rms_eps=1e-6,
    rope_theta=1e6,
    tie_embeddings=False,
    eos_ids=(151645, 151643),
    pad_id=151643,
)
FULL_BATCH = 16  # ms-swift fills a batch up to this if gradient_accumulation_steps is not given
MAX_LENGTH = 2048  # the article's, if neither the command nor the config sets one


@dataclass(frozen=True)
class PlannedRun:
    """One run, as far as it affects memory and time. `lengths` may be a sample; `rows` counts all training rows."""

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
    max_steps: int  # -1: determined by the epochs
    data: str  # the data in one line
    model: str  # the planned model, in one line
    notes: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Optimizer steps: an epoch's last batch may be smaller."""
        if self.max_steps > 0:
            return self.max_steps
        return math.ceil(self.epochs * math.ceil(self.rows / self.batch))

    def minutes(self, seconds_per_step: float) -> float:
        """Total for all steps, on an H100, without start-up."""
        return self.steps * seconds_per_step / 60


def shape_of(model_dir: Path) -> tuple[Config, str]:
    """(the sizes to plan with, and their model in one line): config.json's, but the 7B's for a test model.

    Raises UserError if the folder does not hold a plain Qwen2.
    """
    kind = kind_of(model_dir)
    if kind.is_for_tests:
        return REAL_SHAPE, _("{real}, by its shape: the weights here are the {short}").format(
            real=REAL, short=_(kind.short)
        )
    try:
        shape = Config.from_dir(model_dir)
    except ValueError as error:
        raise UserError(_("plan: {reason}").format(reason=error)) from None
    return shape, _("{name}, {num_layers} layers of {hidden_size}").format(
        name=model_dir.name, num_layers=shape.num_layers, hidden_size=shape.hidden_size
    )


def read(
    file: Path,
    model_dir: Path,
    datasets: Sequence[str] | None,
    max_length: int | None,
    columns: tuple[str, str] | None = None,
) -> PlannedRun:
    """Options from the file; the named data, or the file's own, relative to the folder above it. Raises UserError.

    `columns` are the headings of a table's questions and answers, if they are not detected automatically.
    """
    options = config_file.load(file)
    shape, model = shape_of(model_dir)
    limit = max_length if max_length is not None else int(_number(file, options, "max_length", MAX_LENGTH))
    if limit < 1:
        raise UserError(
            _("plan: max_length {limit}: is not a number of tokens; the article's is {max_length}").format(
                limit=limit, max_length=MAX_LENGTH
            )
        )
    specs = list(datasets) if datasets else _list(options.get("dataset"))
    if not specs:
        raise UserError(_("plan: {file} names no dataset; name one with --dataset FILE").format(file=file))
    system = options.get("system")
    looked = CheckOptions(
        columns=columns,
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
        if report is None:  # a hub's rows are not here yet: each may be as long as allowed
            lengths.append(limit)
            rows += source.sample or 0
            notes.append(
                _("{spec}: not fetched yet, so its rows are planned as {limit} tokens (max_length)").format(
                    spec=source.spec, limit=limit
                )
            )
            continue
        fitting = [length for length in report.lengths if length <= limit]
        dropped = len(report.numbers.get(_("too long"), []))
        if dropped:
            notes.append(
                _("{file}: {dropped} rows are longer than max_length {limit} and left out").format(
                    file=report.file, dropped=dropped, limit=limit
                )
            )
        if report.sampled:
            fitting.append(limit)
            notes.append(
                _("{file}: only a sample was counted, so the longest row is taken to be {limit} tokens").format(
                    file=report.file, limit=limit
                )
            )
        lengths += fitting
        rows += source.sample if source.sample is not None else report.rows - dropped
    reports = [report for _other, report in found if report]
    rows_at_a_time = int(_number(file, options, "per_device_train_batch_size", 1))
    filled = max(-(-FULL_BATCH // rows_at_a_time), 1)
    bits = options.get("quant_bits")
    planned = PlannedRun(
        shape=shape,
        lengths=lengths,
        rows=rows,
        batch=rows_at_a_time * int(_number(file, options, "gradient_accumulation_steps", filled)),
        epochs=_number(file, options, "num_train_epochs", 3),
        rank=int(_number(file, options, "lora_rank", 8)),
        dropout=_number(file, options, "lora_dropout", 0.05),
        targets=_list(options.get("target_modules", ["all-linear"])),
        quant_bits=int(_number(file, options, "quant_bits", 0)) if bits else None,
        max_length=limit,
        max_steps=int(_number(file, options, "max_steps", -1)),
        data=in_one_line(reports) if reports else ", ".join(specs),
        model=model,
        notes=notes,
    )
    return _with_own_steps(planned, file, model_dir)


def _with_own_steps(planned: PlannedRun, file: Path, model_dir: Path) -> PlannedRun:
    """The plan, with a note on the number of steps of a test model's own run: sft.sh gives it other epochs."""
    kind = kind_of(model_dir)
    own = file.with_name(f"{kind.name}.yaml")
    if not kind.is_for_tests or not own.is_file():
        return planned
    epochs = _number(own, config_file.load(own), "num_train_epochs", planned.epochs)
    steps = replace(planned, epochs=epochs).steps
    if steps == planned.steps:
        return planned
    return replace(
        planned,
        model=_("{model}, whose own run takes {steps} steps (configs/{name})").format(
            model=planned.model, steps=steps, name=own.name
        ),
    )


def _number(file: Path, options: dict[str, Any], name: str, default: float) -> float:
    value = options.get(name, default)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{file}: {name}: {ranges.not_a_number(name, str(value), 'float')}") from None
    if fault := ranges.fault(name, number):
        raise UserError(f"{file}: {name}: {value!r} {fault}")
    return number


def _list(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list) else str(value).split()
