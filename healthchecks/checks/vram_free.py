"""Check 6: the GPU's total and free memory against VRAM_CEILING_GIB, and which processes use the rest."""

from __future__ import annotations

import os

from common.i18n import N_, _
from healthchecks.context import GIB, Context, Failure, Outcome, gib

# What a forward pass needs in addition to the weights: activations, and the CUDA context, which NVML counts.
MARGIN_BYTES = 1 * GIB
USUAL_BYTES = 22 * GIB  # of a 24 GB card
_TOO_LARGE = N_(
    "the weights alone take {gib}: use a larger card, with a VRAM_CEILING_GIB to match, or several, with "
    "HEALTH_LEVEL=off, since these checks load the base on one (docs/engines.md)"
)


def check(context: Context) -> Outcome:
    """Outcome with total and free GiB. Raises Failure: ceiling-too-low, card-too-small or busy-gpu."""
    gpu = context.gpu
    if gpu is None:
        return Outcome(_("no GPU in use"), "skip", "cpu")
    weights = context.weight_bytes
    least = weights + MARGIN_BYTES // 2
    too_large = _(_TOO_LARGE).format(gib=gib(weights)) if least > USUAL_BYTES else ""
    ceiling = int(context.ceiling_gib * GIB)
    if ceiling and ceiling < least:
        raise Failure(
            "ceiling-too-low",
            _("VRAM_CEILING_GIB is {ceiling_gib:g}, and the weights alone take {gib}").format(
                ceiling_gib=context.ceiling_gib, gib=gib(weights)
            ),
            too_large or _("set VRAM_CEILING_GIB to 22 (the default, for a 24 GB card), or to 0 for no ceiling"),
        )
    need = ceiling or weights + MARGIN_BYTES
    why = (
        f"VRAM_CEILING_GIB={context.ceiling_gib:g}"
        if ceiling
        else _("the weights and {gib}").format(gib=gib(MARGIN_BYTES))
    )
    if gpu.total < need:
        name = _("the MIG instance of {name}").format(name=gpu.name) if gpu.mig else gpu.name
        lower = int(gpu.total / GIB) - 1
        raise Failure(
            "card-too-small",
            _("{name} has {gib} in all, less than {why} asks for").format(name=name, gib=gib(gpu.total), why=why),
            _("set VRAM_CEILING_GIB to {lower}; what training fits under it, `plan` says").format(lower=lower)
            if lower * GIB >= least
            else too_large
            or _("the weights alone take {gib}: use a card{mig} of 24 GB").format(
                gib=gib(weights), mig=_(" or a MIG instance") if gpu.mig else ""
            ),
        )
    processes = [process for process in gpu.processes if process[0] != os.getpid()]
    others = ", ".join(f"pid {pid} {name} {'? GiB' if used is None else gib(used)}" for pid, used, name in processes)
    if gpu.free < need:
        holders = _("held by ") + others if others else _("held by processes that this container cannot see")
        raise Failure(
            "busy-gpu",
            _("{free} of {total} are free, {why} asks for more; {holders}").format(
                free=gib(gpu.free), total=gib(gpu.total), why=why, holders=holders
            ),
            REMEDY,
        )
    figure = _("{free} of {total} free, {why}").format(free=gib(gpu.free), total=gib(gpu.total), why=why)
    return Outcome(figure + (_("; also there: {names}").format(names=others) if others else ""))


REMEDY = N_(
    "end what holds the memory (nvidia-smi on the host lists it), or choose another GPU with docker run --gpus device=N"
)
