"""Check 8: the peak of the forward pass, allocated and reserved, against the ceiling, and its release afterwards."""

from __future__ import annotations

from healthchecks.context import GIB, Context, Failure, Outcome, gib

NAME = "vram-ceiling"
LEVEL = "full"

# cuBLAS keeps its workspace (8 to 32 MiB) until the process ends, which is right after this check.
KEPT_BYTES = 64 << 20


def check(context: Context) -> Outcome:
    """Outcome with the peak; Failure over-ceiling or not-released. The figures are those that `forward` left."""
    if context.peak is None or context.left is None:
        return Outcome("no GPU in use", "skip", "cpu")
    allocated, reserved = context.peak
    peak = f"peak {gib(allocated)} allocated, {gib(reserved)} reserved"
    ceiling = context.ceiling_gib
    if ceiling and reserved > ceiling * GIB:
        raise Failure(
            "over-ceiling",
            f"one forward pass took {gib(reserved)} ({gib(allocated)} allocated), over VRAM_CEILING_GIB={ceiling:g}",
            "raise VRAM_CEILING_GIB (22 suits a 24 GB card, 0 lifts it)",
        )
    if max(context.left) > KEPT_BYTES:
        raise Failure(
            "not-released",
            f"{gib(context.left[0])} allocated and {gib(context.left[1])} reserved remain after the model was let go",
            "a defect of this image: please report it with the output of `healthcheck report --json`",
        )
    return Outcome(f"{peak}; " + (f"ceiling {ceiling:g} GiB" if ceiling else "no ceiling") + "; released")
