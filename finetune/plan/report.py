"""What the plan command shows: the data and the card in a line each, the engines' plans, and other cards."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finetune.plan.fast import FastPlan
from finetune.plan.gpu_memory import Card
from finetune.plan.planned_run import Job
from finetune.plan.swift import SwiftPlan, card_ceiling

FIGURES = ("ceiling, GiB", "peak, GiB", "minutes, H100")
AGAIN = {"none": "nothing", "swiglu": "SwiGLU", "layer": "whole layers"}


def terminal(console: Console, found: Job, on: Card, engines: dict[str, Any], cards: dict[int, Any]) -> None:
    """Lines and two tables; what would fit instead stands below them, where a narrow terminal has room for it."""

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    say(f"model: {escape(found.model)}")
    say(f"data: {escape(found.data)}; {found.steps} steps of {found.batch} rows")
    for note in found.notes:
        say(f"note: {escape(note)}")
    say(f"card: {escape(on.name)}; planned for {on.ceiling_gib:g} GiB: {escape(on.why)}")
    table = _table("engine", "batch", "saved by", "peak, GiB", "minutes, H100")
    for name, plan in engines.items():
        table.add_row(name, *_cells(found, plan))
    console.print(table)
    for name, plan in engines.items():
        if isinstance(plan, str):
            say(f"{name}: {escape(_remedy(plan))}")
    table = _table("ms-swift on", "ceiling, GiB", "batch", "saved by", "peak, GiB", "minutes, H100")
    for size, plan in cards.items():
        table.add_row(f"{size} GB", f"{card_ceiling(size):g}", *_cells(found, plan))
    console.print()
    console.print(table)
    for size, plan in cards.items():
        if isinstance(plan, str):
            say(f"{size} GB: {escape(_remedy(plan))}")


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in FIGURES else "left")
    return table


def _cells(found: Job, plan: SwiftPlan | FastPlan | str) -> tuple[str, str, str, str]:
    if isinstance(plan, str):
        return "[red]does not fit[/]", "", "", ""
    if isinstance(plan, SwiftPlan):
        batch = f"{plan.per_device_train_batch_size} x {plan.gradient_accumulation_steps}"
        saved = ["checkpointing"] * plan.gradient_checkpointing + ["liger"] * plan.use_liger_kernel
    else:
        batch = f"parts of {plan.micro_batch_tokens} tokens" if plan.micro_batch_tokens else "in one piece"
        saved = [] if plan.recompute == "none" else [f"{AGAIN[plan.recompute]} recomputed"]
    return batch, ", ".join(saved) or "nothing", f"{plan.peak_gib:.1f}", f"{found.minutes(plan.seconds_per_step):.2f}"


def _remedy(why: str) -> str:
    """The end of the line, which says what would fit."""
    return why.rpartition("; ")[2]
