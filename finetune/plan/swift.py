"""Chooses how ms-swift runs a batch under a ceiling; called by sft/batch.py and commands/plan.py.

plan = plan_swift(Config.from_dir(model_dir), lengths, batch=16, ceiling_gib=22)
options = plan.options()        # {"per_device_train_batch_size": 8, ...}
print(plan.in_one_line())
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import UserError
from common.i18n import _
from finetune.plan.memory import LargestMicroBatch, LoraSpec, peak_gib
from finetune.plan.speed import micro_batch_seconds
from qwen2.config import PROJECTIONS, Config

# Margin for the allocator, as a share of what the micro-batch adds to the weights, by gradient checkpointing: with it,
# activations of every size are allocated and freed, which fragments the cache (docs/plan.md).
MARGIN = {False: 0.05, True: 0.45}
CARDS_GIB = (12, 16, 24, 48, 80)
SAMPLE = 2048  # rows used to compute the mean step time
LENGTH_STEP = 64  # a shorter max_length is proposed in steps of this many tokens
LIGER_GAIN = 0.95  # liger is on if nothing fits without it, or if it takes no more than this share of the time


@dataclass(frozen=True)
class SwiftPlan:
    """How ms-swift should run. The peak is the allocated GiB of the worst possible micro-batch."""

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    use_liger_kernel: bool
    peak_gib: float
    seconds_per_step: float  # estimated mean per optimizer step on an H100
    ceiling_gib: float
    longest: int  # tokens

    def options(self) -> dict[str, Any]:
        """The options of `swift sft` that the plan sets."""
        return {
            "per_device_train_batch_size": self.per_device_train_batch_size,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "gradient_checkpointing": self.gradient_checkpointing,
            "use_liger_kernel": self.use_liger_kernel,
        }

    def in_one_line(self) -> str:
        """One line for the screen, before the run."""
        return _(
            "plan: {per_device_train_batch_size} rows x {gradient_accumulation_steps} micro-batches, "
            "gradient checkpointing {on}, liger {liger}: about {peak_gib:.1f} of {ceiling_gib:g} GiB "
            "(longest row {longest} tokens)"
        ).format(
            per_device_train_batch_size=self.per_device_train_batch_size,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            on=_on(self.gradient_checkpointing),
            liger=_on(self.use_liger_kernel),
            peak_gib=self.peak_gib,
            ceiling_gib=self.ceiling_gib,
            longest=self.longest,
        )


def plan_swift(
    shape: Config,
    lengths: Sequence[int],
    batch: int,
    ceiling_gib: float,
    rank: int = 8,
    targets: Sequence[str] = ("all-linear",),
    quant_bits: int | None = None,
    micro_batch: int | None = None,
    gradient_checkpointing: bool | None = None,
    use_liger_kernel: bool | None = None,
) -> SwiftPlan:
    """The fastest way whose predicted peak stays under the ceiling, with micro-batch x accumulation = `batch` exactly.

    `lengths` are the tokens of the training rows (without those over max_length). The shuffle decides which rows share
    a micro-batch, so the longest counts for all. Arguments that are not None were fixed by the user.
    Raises UserError with the remedies if nothing fits, or there is nothing to plan.
    """
    if not lengths:
        raise UserError(_("plan: there are no rows to train on; name a dataset with rows no longer than --max_length"))
    if batch < 1:
        raise UserError(
            _("plan: a batch of {batch} rows is not possible; set --per_device_train_batch_size to 1 or more").format(
                batch=batch
            )
        )
    if not ceiling_gib > 0:
        raise UserError(
            _("plan: {ceiling_gib:g} GiB: no GPU memory left to plan with; free the card, or set --gpu GIB").format(
                ceiling_gib=ceiling_gib
            )
        )
    if micro_batch is not None and (micro_batch < 1 or batch % micro_batch):
        raise UserError(
            _("plan: {micro_batch} rows at a time do not divide a batch of {batch}; take a divisor of it").format(
                micro_batch=micro_batch, batch=batch
            )
        )
    adapter = LoraSpec(rank, named(targets), quant_bits)
    order = list(lengths)
    random.Random(0).shuffle(order)
    best: tuple[float, SwiftPlan] | None = None
    for size in divisors(batch) if micro_batch is None else [micro_batch]:
        for checkpointing in (False, True) if gradient_checkpointing is None else (gradient_checkpointing,):
            for liger in (False, True) if use_liger_kernel is None else (use_liger_kernel,):
                peak = peak_gib(shape, adapter, worst(lengths, size), checkpointing, liger)
                if with_margin(peak, shape, adapter, checkpointing) > ceiling_gib:
                    continue
                seconds = step_seconds(shape, order, batch, size, checkpointing, liger)
                cost = seconds / LIGER_GAIN if liger else seconds
                if best is None or cost < best[0]:
                    plan = SwiftPlan(
                        size, batch // size, checkpointing, liger, round(peak, 2), seconds, ceiling_gib, max(lengths)
                    )
                    best = (cost, plan)
    if best is None:
        fixed = (micro_batch, gradient_checkpointing, use_liger_kernel)
        raise UserError(_what_would_fit(shape, lengths, ceiling_gib, adapter, fixed))
    return best[1]


def worst(lengths: Sequence[int], size: int) -> LargestMicroBatch:
    """The most expensive micro-batch of `size` rows: the longest row with others next to it, all with a loss."""
    width, rows = max(lengths), min(size, len(lengths))
    return LargestMicroBatch(width, rows, kept=width * rows, padded=rows > 1 and min(lengths) != width)


def step_seconds(
    shape: Config,
    order: Sequence[int],
    batch: int,
    size: int,
    checkpointing: bool,
    liger: bool,
    slower: float = 1.0,
) -> float:
    """Mean seconds per optimizer step over an epoch in that order, on a GPU that is slower than an H100 by a factor."""
    rows = order[: max(batch, SAMPLE - SAMPLE % batch)]
    seconds = 0.0
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        seconds += micro_batch_seconds(shape, len(part) * max(part), checkpointing, liger, slower)
    return seconds / math.ceil(len(rows) / batch)


def divisors(batch: int) -> list[int]:
    """Micro-batch sizes that divide the batch exactly, smallest first."""
    return [size for size in range(1, batch + 1) if batch % size == 0]


def named(targets: Sequence[str]) -> tuple[str, ...]:
    """The linears of `target_modules`; `all-linear` is all seven. Raises UserError for one that Qwen2 does not have."""
    found = PROJECTIONS if "all-linear" in targets else tuple(dict.fromkeys(targets))
    unknown = [name for name in found if name not in PROJECTIONS]
    if unknown or not found:
        raise UserError(
            _("plan: --target_modules {names}: knows all-linear and {known}; name some of those").format(
                names=" ".join(targets), known=", ".join(PROJECTIONS)
            )
        )
    return found


def with_margin(peak: float, shape: Config, adapter: LoraSpec, checkpointing: bool) -> float:
    """Free GiB needed for a predicted peak: MARGIN on top of what exceeds one token's."""
    alone = peak_gib(shape, adapter, worst([1], 1), True, True)
    return peak + MARGIN[checkpointing] * max(0.0, peak - alone)


def fitting_length(shape: Config, ceiling_gib: float, adapter: LoraSpec) -> int:
    """The longest row, in steps of 64 tokens, that fits with every memory-saving option; 0 if none does."""

    def fits(length: int) -> bool:
        peak = peak_gib(shape, adapter, worst([length], 1), True, True)
        return with_margin(peak, shape, adapter, True) <= ceiling_gib

    low, high = 0, shape.max_positions // LENGTH_STEP
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * LENGTH_STEP) else (low, middle - 1)
    return low * LENGTH_STEP


def card_ceiling(gpu_gib: float) -> float:
    """The GiB to plan for on a GPU of that size, as 22 is for 24: context, display and other programs use the rest."""
    return round(gpu_gib - max(1.0, gpu_gib / 12), 1)


def _what_would_fit(
    shape: Config,
    lengths: Sequence[int],
    ceiling_gib: float,
    adapter: LoraSpec,
    fixed: tuple[int | None, bool | None, bool | None],
) -> str:
    size, checkpointing, liger = fixed[0] or 1, fixed[1] is not False, fixed[2] is not False
    peak = peak_gib(shape, adapter, worst(lengths, size), checkpointing, liger)
    needed = with_margin(peak, shape, adapter, checkpointing)
    least = peak_gib(shape, adapter, worst(lengths, 1), True, True)
    longest = max(lengths)
    at = _("{size} at a time, ").format(size=size) if size > 1 else ""
    what = _("rows of {longest} tokens ({at}everything that saves memory on) need {needed:.1f} GiB").format(
        longest=longest, at=at, needed=needed
    )
    if fixed != (None, None, None) and least < peak:
        best = with_margin(least, shape, adapter, True)
        what = _("rows of {longest} tokens with the options given need {needed:.1f} GiB").format(
            longest=longest, needed=needed
        )
        if best <= ceiling_gib:
            return _(
                "plan: {what}, more than the {ceiling_gib:g} there are; leave out "
                "--per_device_train_batch_size, --gradient_checkpointing and --use_liger_kernel, and "
                "{best:.1f} are enough"
            ).format(what=what, ceiling_gib=ceiling_gib, best=best)
        needed = best
    remedies = []
    shorter = fitting_length(shape, ceiling_gib, adapter)
    if shorter >= 2 * LENGTH_STEP:
        remedies.append(f"--max_length {shorter}")
    quantized = LoraSpec(adapter.rank, adapter.targets, 4)
    if adapter.bits != 4:
        small = peak_gib(shape, quantized, worst(lengths, 1), True, True)
        small = with_margin(small, shape, quantized, True)
        if small <= ceiling_gib:
            remedies.append(_("a 4-bit base (--config configs/sft_qlora.yaml: {small:.1f} GiB)").format(small=small))
    card = next((card for card in CARDS_GIB if card_ceiling(card) >= max(needed, ceiling_gib)), None)
    if card:
        remedies.append(
            _("a card of {card} GB with VRAM_CEILING_GIB={card_ceiling:g}").format(
                card=card, card_ceiling=card_ceiling(card)
            )
        )
    else:
        remedies.append(_("a card with more than {needed:.0f} GiB").format(needed=needed))
    return _("plan: {what}, more than the {ceiling_gib:g} there are; take {names}").format(
        what=what, ceiling_gib=ceiling_gib, names=_(", or ").join(remedies)
    )


def _on(value: bool) -> str:
    return "on" if value else "off"
