"""How ms-swift runs the rows of a step: as a full batch, divided among the workers, and split to fit the GPU."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.i18n import _
from common.json_files import json_object
from common.model_kind import STANDIN
from common.settings import Settings
from finetune.plan import gpu_memory, sharded
from finetune.plan.memory import LoraSpec
from finetune.plan.swift import named, plan_swift
from finetune.sft.description import SftRun, listed
from qwen2.config import PROJECTIONS, Config

# Options of ms-swift that change a step's memory in ways that finetune/plan does not count.
UNPLANNED = (
    *("deepspeed", "fsdp", "device_map", "packing", "padding_free", "streaming", "sequence_parallel_size"),
    *("use_dora", "modules_to_save", "target_regex", "target_parameters", "attn_impl", "use_galore", "optimizer"),
)


def require_rows(run: SftRun) -> None:
    """Raises UserError if max_length leaves no training row; ms-swift would end with a traceback."""
    limit = int(run.options().get("max_length") or 0)
    reports = [report for _other, report in run.data]
    if not limit or any(report is None or report.sampled or not report.lengths for report in reports):
        return
    lengths = [length for report in reports if report for length in report.lengths]
    if lengths and min(lengths) > limit:
        raise UserError(
            _(
                "{name}: no row is left to train on: the shortest has {lengths} tokens, and --max_length is "
                "{limit}; raise it, or shorten the rows"
            ).format(name=run.name, lengths=min(lengths), limit=limit)
        )


def share(run: SftRun) -> SftRun:
    """With several workers, divide the rows of a step among them, so that it has the same rows as with one worker.

    Changes nothing if the user set gradient_accumulation_steps, or the rows cannot be divided by the workers.
    """
    workers = _workers()
    if workers == 1 or run.choice.is_fast or run.args.get("gradient_accumulation_steps") is not None:
        return run
    options = run.options()
    size = int(options.get("per_device_train_batch_size", 1))
    micros = int(options.get("gradient_accumulation_steps", 1))
    rows, rest = divmod(size * micros, workers)
    if rest or (run.args.get("per_device_train_batch_size") is not None and rows % size):
        print(
            _(
                "note: {workers} workers do not divide {micros} micro-batches: a step has {size} rows, where "
                "one worker's has {alone}; --gradient_accumulation_steps sets it"
            ).format(workers=workers, micros=micros, size=size * micros * workers, alone=size * micros),
            file=sys.stderr,
        )
        return run
    size = math.gcd(size, rows)
    print(
        _("batch: {workers} workers x {size} x {micros} rows a step, as many as on one").format(
            workers=workers, size=size, micros=rows // size
        ),
        file=sys.stderr,
    )
    own = {"per_device_train_batch_size": size, "gradient_accumulation_steps": rows // size}
    return replace(run, own=run.own | own)


def fit_the_card(run: SftRun, waits: bool = False) -> SftRun:
    """Split ms-swift's batch in the fastest way that finetune/plan finds under the ceiling; the user's options stay.

    Raises UserError with the remedies if nothing fits. Changes nothing if the plan does not cover the run (no GPU,
    another model than Qwen2, no LoRA, options in UNPLANNED) or the row lengths are unknown. With several processes, it
    splits each one's part of the batch (`share`).
    `waits`: another job may hold the GPU now, so the total memory counts instead of the free memory.
    """
    options = run.options()
    shape, rows = _plannable_shape(run, options), lengths(run)
    if shape is None or rows is None:
        _tell_of_fsdp(run, options, rows)
        return run
    size = int(options.get("per_device_train_batch_size", 1))
    cut = any(run.args.get(name) is not None for name in ("per_device_train_batch_size", "gradient_accumulation_steps"))
    plan = plan_swift(
        shape,
        rows,
        batch=size * int(options.get("gradient_accumulation_steps", 1)),
        ceiling_gib=ceiling_gib(run.settings, waits),
        rank=int(options.get("lora_rank", 8)),
        targets=listed(options.get("target_modules", "all-linear")),
        quant_bits=int(options.get("quant_bits") or 0) or None,
        micro_batch=size if cut else None,
        gradient_checkpointing=options.get("gradient_checkpointing"),
        use_liger_kernel=options.get("use_liger_kernel"),
    )
    print(plan.in_one_line(), file=sys.stderr)
    return replace(run, own=run.own | plan.options())


def _tell_of_fsdp(run: SftRun, options: dict[str, Any], rows: list[int] | None) -> None:
    """A line on the memory of each GPU when FSDP shards the base; the batch stays as given."""
    shape = _plannable_shape(run, {name: value for name, value in options.items() if name != "fsdp"})
    cards = _workers()
    if not options.get("fsdp") or shape is None or rows is None or cards < 2:
        return
    size = int(options.get("per_device_train_batch_size", 1))
    adapter = LoraSpec(int(options.get("lora_rank", 8)), named(listed(options.get("target_modules", "all-linear"))))
    file = json_object(Path(str(options["fsdp"]))).get("fsdp_config")
    again = bool(options.get("gradient_checkpointing")) or bool(
        isinstance(file, dict) and file.get("activation_checkpointing")
    )
    found, ceiling = sharded.share(shape, adapter, rows, cards, size, again), ceiling_gib(run.settings, False)
    print(
        _(
            "plan: FSDP over {cards} GPUs, {rows} rows at a time: about {peak:.1f} of {ceiling:g} GiB on each "
            "({part:.1f} its part of the weights, {gathered:.1f} gathered)"
        ).format(
            cards=cards,
            rows=size,
            peak=found.peak_gib,
            ceiling=ceiling,
            part=found.part_gib,
            gathered=found.gathered_gib,
        ),
        file=sys.stderr,
    )
    if found.peak_gib > ceiling:
        print(
            _(
                "note: that is more than there is: take more GPUs (NPROC_PER_NODE), a smaller "
                "--per_device_train_batch_size or --max_length, or raise VRAM_CEILING_GIB on a larger card"
            ),
            file=sys.stderr,
        )


def _plannable_shape(run: SftRun, options: dict[str, Any]) -> Config | None:
    """The shape of the model, if finetune/plan can estimate such a run."""
    if run.choice.is_fast or run.model_kind is STANDIN or run.settings.wants_cpu:
        return None
    targets = {*listed(options.get("target_modules", "all-linear"))}
    known = options.get("tuner_type", "lora") == "lora" and options.get("torch_dtype", "bfloat16") == "bfloat16"
    if not known or any(options.get(name) for name in UNPLANNED) or not targets <= {"all-linear", *PROJECTIONS}:
        return None
    try:
        return Config.from_dir(run.model_dir)
    except ValueError:
        return None


def lengths(run: SftRun) -> list[int] | None:
    """Tokens of the training rows, without those over max_length; None if the lengths are unknown."""
    limit = int(run.options().get("max_length") or 0)
    found: list[int] = []
    for _other, report in run.data[: len(run.args.get("dataset") or [])]:
        if report:
            found += [length for length in report.lengths if not limit or length <= limit]
        if report is None or report.sampled or not report.lengths:  # a row may be as long as allowed
            if not limit:
                return None
            found.append(limit)
    return found


def ceiling_gib(settings: Settings, waits: bool) -> float:
    """The GiB to plan with: VRAM_CEILING_GIB, or the GPU's free memory (all of its memory if the run waits)."""
    found = gpu_memory.find(None, settings.vram_ceiling_gib)
    if not waits:
        return found.ceiling_gib
    whole = round(found.gib - gpu_memory.CONTEXT_GIB, 2)
    return min(settings.vram_ceiling_gib or whole, whole)


def _workers() -> int:
    """The processes of a run, of all nodes."""
    return max(1, count("NNODES")) * max(1, count("NPROC_PER_NODE"))


def count(name: str) -> int:
    """A number from the environment, such as NODE_RANK; 0 if it is unset."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 0
