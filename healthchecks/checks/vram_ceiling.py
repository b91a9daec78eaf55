"""Check 8: the peak of the forward pass, allocated and reserved, against the ceiling, and its release afterwards."""

from __future__ import annotations

from common.i18n import _
from healthchecks.context import GIB, Context, Failure, Outcome, gib

# cuBLAS keeps its workspace (8 to 32 MiB) until the process ends, which is soon after this check.
KEPT_BYTES = 64 << 20


def check(context: Context) -> Outcome:
    """Outcome with the peak. Raises Failure: over-ceiling or not-released. The figures come from `forward`."""
    if context.peak is None or context.left is None:
        return Outcome(_("no GPU in use"), "skip", "cpu")
    allocated, reserved = context.peak
    peak = _("peak {allocated} allocated, {reserved} reserved").format(allocated=gib(allocated), reserved=gib(reserved))
    ceiling = context.ceiling_gib
    if ceiling and reserved > ceiling * GIB:
        raise Failure(
            "over-ceiling",
            _("one forward pass took {reserved} ({allocated} allocated), over VRAM_CEILING_GIB={ceiling:g}").format(
                reserved=gib(reserved), allocated=gib(allocated), ceiling=ceiling
            ),
            _("raise VRAM_CEILING_GIB (22 suits a 24 GB card, 0 lifts it)"),
        )
    if max(context.left) > KEPT_BYTES:
        raise Failure(
            "not-released",
            _("{allocated} allocated and {reserved} reserved remain after the model was let go").format(
                allocated=gib(context.left[0]), reserved=gib(context.left[1])
            ),
            _("a defect of this image: please report it with the output of `healthcheck report --json`"),
        )
    bound = _("ceiling {ceiling:g} GiB").format(ceiling=ceiling) if ceiling else _("no ceiling")
    return Outcome(_("{peak}; {bound}; released").format(peak=peak, bound=bound))
