"""`plan`: estimates how a run fits the GPU, before a model is loaded: batch, peak memory, time, and other GPUs."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.errors import DONE, FAILED, Parser, UserError, run_main
from common.i18n import _
from common.model_kind import kind_of
from common.settings import Settings
from finetune.data.source import parse_columns
from finetune.plan import cards as known
from finetune.plan import gpu_memory, planned_run, sharded
from finetune.plan.fast import FastPlan, plan_fast
from finetune.plan.memory import LoraSpec
from finetune.plan.swift import CARDS_GIB, SwiftPlan, card_ceiling, named, plan_swift
from finetune.verify.config import default_path


def parser() -> Parser:
    """The command line."""
    p = Parser(
        prog="plan",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=_("How a run fits the card, before a model is loaded: batch, peak and time, and other cards."),
        epilog=_(
            "Reads the rows' token lengths and config.json; no weights, no GPU. The config's batch stays as "
            "it is\n(per_device_train_batch_size x gradient_accumulation_steps); only how it is cut changes, "
            "so the losses stay the same.\nPeaks and minutes (of an H100) are estimates; docs/plan.md says "
            "what of them has been measured.\nExit code: 0 a plan, 1 nothing fits (the line says what would), "
            "2 unusable input."
        ),
    )
    p.add_argument("--dataset", nargs="+", metavar="FILE", help=_("datasets (default: the config's, the 50 rows)"))
    p.add_argument("--columns", metavar="QUESTION,ANSWER", help=_("the two columns of a table, if the guess is wrong"))
    p.add_argument("--gpu", type=float, metavar="GIB", help=_("a card's memory (default: this machine's, else 24)"))
    p.add_argument("--max_length", "--max-length", type=int, metavar="N", help=_("leave out rows of more tokens"))
    p.add_argument("--config", type=Path, metavar="FILE", help=_("the run's options (default: configs/sft.yaml)"))
    p.add_argument("--engine", choices=["swift", "fast"], help=_("plan this engine only (fast imports torch: seconds)"))
    p.add_argument("--json", action="store_true", help=_("print JSON"))
    return p


def main(argv: list[str] | None = None) -> int:
    """Print the plan; returns the exit code."""
    args = parser().parse_args(argv)
    settings = Settings.from_env()
    file = args.config or default_path().with_name("sft.yaml")
    if (kind := kind_of(settings.model_dir)).is_for_tests:
        print(kind.notice(settings.model_dir), file=sys.stderr)
    columns = parse_columns(args.columns) if args.columns else None
    found = planned_run.read(file, settings.model_dir, args.dataset, args.max_length, columns)
    on = gpu_memory.find(args.gpu, settings.vram_ceiling_gib)
    engines: dict[str, Any] = {}
    if args.engine != "fast":
        engines[known.SWIFT] = swift(found, on.ceiling_gib)
    if args.engine != "swift":
        engines[known.FAST] = fast(found, on.ceiling_gib)
    cards = {size: swift(found, card_ceiling(size)) for size in CARDS_GIB}
    wanted = [name for name in (known.FAST, known.SWIFT, known.FOUR_BIT) if name in engines or name == known.FOUR_BIT]
    shares = [] if found.quant_bits or not found.lengths else several(found, on.ceiling_gib)
    times = known.estimates(found, wanted if args.engine != "fast" else [known.FAST])
    if args.json:
        print(json.dumps(as_data(found, on, engines, cards, times, shares), ensure_ascii=False, indent=2))
    else:
        from rich.console import Console

        from finetune.plan import report

        report.terminal(Console(), found, on, engines, cards, times, shares)
    if any(not isinstance(plan, str) for plan in engines.values()):
        return DONE
    print(_("error: {reason}").format(reason=next(iter(engines.values()))), file=sys.stderr)
    return FAILED


def swift(found: planned_run.PlannedRun, ceiling_gib: float) -> SwiftPlan | str:
    """ms-swift's plan under a ceiling in GiB, or a text that says what would fit."""
    try:
        return plan_swift(
            found.shape, found.lengths, found.batch, ceiling_gib, found.rank, found.targets, found.quant_bits
        )
    except UserError as error:
        return str(error)


def several(found: planned_run.PlannedRun, ceiling_gib: float) -> list[sharded.Share]:
    """The memory of each GPU if FSDP shards the base over several, each under a ceiling in GiB."""
    adapter = LoraSpec(found.rank, named(found.targets))
    return [
        sharded.fitting(found.shape, adapter, found.lengths, cards, found.batch, ceiling_gib) for cards in sharded.CARDS
    ]


def fast(found: planned_run.PlannedRun, ceiling_gib: float) -> FastPlan | str:
    """The fast lane's plan under a ceiling in GiB, or the reason why there is none."""
    if found.quant_bits:
        return _("the fast lane trains on the bfloat16 base, not on {quant_bits} bits").format(
            quant_bits=found.quant_bits
        )
    targets = named(found.targets)
    return plan_fast(found.shape, found.lengths, found.batch, ceiling_gib, found.rank, found.dropout, targets)


def as_data(
    found: planned_run.PlannedRun,
    on: gpu_memory.Card,
    engines: dict[str, Any],
    cards: dict[int, Any],
    times: list[known.Estimate],
    shares: list[sharded.Share],
) -> dict[str, Any]:
    """The whole plan as JSON data.

    Args:
        found: The run that is planned.
        on: The GPU.
        engines: Engine -> its plan, or the reason why there is none.
        cards: GPU memory in GiB -> ms-swift's plan there, or the reason why there is none.
        times: The estimates for known GPUs.
        shares: The memory of each GPU with FSDP.
    """

    def plan(value: Any) -> dict[str, Any]:
        if isinstance(value, str):
            return {"fits": False, "why": value}
        return {"fits": True, **asdict(value), "minutes_h100": round(found.minutes(value.seconds_per_step), 2)}

    return {
        "schema": 1,
        "model": found.model,
        "data": found.data,
        "notes": found.notes,
        "rows": found.rows,
        "longest": max(found.lengths, default=0),
        "batch": found.batch,
        "steps": found.steps,
        "card": asdict(on),
        "engines": {name: plan(value) for name, value in engines.items()},
        "cards": {str(size): {"ceiling_gib": card_ceiling(size), **plan(value)} for size, value in cards.items()},
        "fsdp": [asdict(each) | {"fits": each.peak_gib <= on.ceiling_gib} for each in shares],
        "known_cards": [asdict(each) | {"measured": each.card == known.H100} for each in times],
    }


if __name__ == "__main__":
    sys.exit(run_main(main))
