"""The output of the plan command: the data and the GPU in one line each, the engines' plans, and other GPUs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.i18n import N_, _
from finetune.plan.cards import FAST, SWIFT, Estimate, duration
from finetune.plan.fast import FastPlan
from finetune.plan.gpu_memory import Card
from finetune.plan.planned_run import PlannedRun
from finetune.plan.sharded import Share
from finetune.plan.swift import SwiftPlan, card_ceiling

FIGURES = (N_("ceiling, GiB"), N_("peak, GiB"), N_("minutes, H100"))
NO_FIT = N_("does not fit")
AGAIN = {"none": N_("nothing"), "swiglu": "SwiGLU", "layer": N_("whole layers")}


def terminal(
    console: Console,
    found: PlannedRun,
    on: Card,
    engines: dict[str, Any],
    cards: dict[int, Any],
    times: Sequence[Estimate],
    shares: Sequence[Share] = (),
) -> None:
    """Lines and three tables; alternatives that would fit are printed below them, where a narrow terminal has room."""

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    say(_("model: {model}").format(model=escape(found.model)))
    say(
        _("data: {data}; {steps} steps, up to {batch} rows a step").format(
            data=escape(found.data), steps=found.steps, batch=found.batch
        )
    )
    for note in found.notes:
        say(_("note: {note}").format(note=escape(note)))
    say(
        _("card: {card}; planned for {ceiling:g} GiB: {why}").format(
            card=escape(on.name), ceiling=on.ceiling_gib, why=escape(on.why)
        )
    )
    table = _table(N_("engine"), N_("batch"), N_("saved by"), *FIGURES[1:])
    for name, plan in engines.items():
        cells = _cells(found, plan)
        if name == FAST and found.quant_bits:  # no matter of room
            cells = (_("not with a {bits}-bit base").format(bits=found.quant_bits), "", "", "")
        table.add_row(_(name), *cells)
    console.print(table)
    for name, plan in engines.items():
        if isinstance(plan, str):
            say(_("{what}: {why}").format(what=_(name), why=escape(_remedy(plan))))
    if shares:
        each = ", ".join(_("{cards} GPUs: {peak:.1f}").format(cards=one.cards, peak=one.peak_gib) for one in shares)
        say(_("the base cut among GPUs by FSDP (configs/fsdp2.json), GiB on each: {each}").format(each=each))
    table = _table(N_("ms-swift on"), FIGURES[0], N_("batch"), N_("saved by"), *FIGURES[1:])
    for size, plan in cards.items():
        table.add_row(f"{size} GB", f"{card_ceiling(size):g}", *_cells(found, plan))
    console.print()
    console.print(table)
    for size, plan in cards.items():
        if isinstance(plan, str):
            say(_("{what}: {why}").format(what=f"{size} GB", why=escape(_remedy(plan))))
    console.print()
    console.print(_times(times))
    say(_("about: estimates, from the H100's measured times by the cards' published bandwidth and FLOPs"))
    fitting = [name for name in (FAST, SWIFT) if not isinstance(engines.get(name, ""), str)]
    if fitting:
        say(
            _("it fits: {engine} takes {peak:.1f} of {ceiling:g} GiB").format(
                engine=_(fitting[0]), peak=engines[fitting[0]].peak_gib, ceiling=on.ceiling_gib
            )
        )


def _times(times: Sequence[Estimate]) -> Table:
    """Time and engine for widely used GPUs."""
    table = _table(N_("how long on"), N_("trained by"), FIGURES[1], N_("about"))
    for each in times:
        if each.engine is None:
            table.add_row(each.card.name, f"[red]{_(NO_FIT)}[/]", "", "")
            continue
        table.add_row(each.card.name, _(each.engine), f"{each.peak_gib:.1f}", duration(each.hours))
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(_(heading), justify="right" if heading in FIGURES else "left")
    return table


def _cells(found: PlannedRun, plan: SwiftPlan | FastPlan | str) -> tuple[str, str, str, str]:
    if isinstance(plan, str):
        return f"[red]{_(NO_FIT)}[/]", "", "", ""
    if isinstance(plan, SwiftPlan):
        batch = f"{plan.per_device_train_batch_size} x {plan.gradient_accumulation_steps}"
        saved = [_("checkpointing")] * plan.gradient_checkpointing + ["liger"] * plan.use_liger_kernel
    else:
        batch = (
            _("parts of {tokens} tokens").format(tokens=plan.micro_batch_tokens)
            if plan.micro_batch_tokens
            else _("in one piece")
        )
        saved = [] if plan.recompute == "none" else [_("{what} recomputed").format(what=_(AGAIN[plan.recompute]))]
    return (
        batch,
        ", ".join(saved) or _("nothing"),
        f"{plan.peak_gib:.1f}",
        f"{found.minutes(plan.seconds_per_step):.2f}",
    )


def _remedy(why: str) -> str:
    """The end of the line, which says what would fit."""
    return re.split("; |；", why)[-1]
