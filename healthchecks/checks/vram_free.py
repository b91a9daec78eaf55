"""Check 6: the GPU's memory, in all and free, against VRAM_CEILING_GIB, and who holds the rest."""

from __future__ import annotations

import os

from healthchecks.context import GIB, Context, Failure, Outcome, gib

NAME = "vram-free"
LEVEL = "fast"

# What a forward pass needs beside the weights: activations, and the CUDA context that NVML counts.
MARGIN_BYTES = 1 * GIB


def check(context: Context) -> Outcome:
    """Outcome with total and free GiB; Failure ceiling-too-low, card-too-small or busy-gpu."""
    gpu = context.gpu
    if gpu is None:
        return Outcome("no GPU in use", "skip", "cpu")
    weights = context.weight_bytes
    ceiling = int(context.ceiling_gib * GIB)
    if ceiling and ceiling < weights + MARGIN_BYTES // 2:
        raise Failure(
            "ceiling-too-low",
            f"VRAM_CEILING_GIB is {context.ceiling_gib:g}, and the weights alone take {gib(weights)}",
            "set VRAM_CEILING_GIB to 22 (the default, for a 24 GB card), or to 0 for no ceiling",
        )
    need = ceiling or weights + MARGIN_BYTES
    why = f"VRAM_CEILING_GIB={context.ceiling_gib:g}" if ceiling else f"the weights and {gib(MARGIN_BYTES)}"
    if gpu.total < need:
        name = f"the MIG instance of {gpu.name}" if gpu.mig else gpu.name
        lower = int(gpu.total / GIB) - 1
        raise Failure(
            "card-too-small",
            f"{name} has {gib(gpu.total)} in all, less than {why} asks for",
            f"set VRAM_CEILING_GIB to {lower}; what training fits under it, `plan` says"
            if lower * GIB >= weights + MARGIN_BYTES // 2
            else f"the weights alone take {gib(weights)}: use a card{' or a MIG instance' if gpu.mig else ''} of 24 GB",
        )
    if gpu.free < need:
        raise Failure(
            "busy-gpu",
            f"{gib(gpu.free)} of {gib(gpu.total)} are free, {why} asks for more; {_holders(context)}",
            REMEDY,
        )
    return Outcome(f"{gib(gpu.free)} of {gib(gpu.total)} free, {why}" + _others(context))


REMEDY = (
    "end what holds the memory (nvidia-smi on the host lists it), or choose another GPU with docker run --gpus device=N"
)


def _listed(context: Context) -> list[str]:
    assert context.gpu is not None
    others = [process for process in context.gpu.processes if process[0] != os.getpid()]
    return [f"pid {pid} {name} {'? GiB' if used is None else gib(used)}" for pid, used, name in others]


def _holders(context: Context) -> str:
    listed = _listed(context)
    if not listed:
        return "held by processes that this container cannot see"
    return "held by " + ", ".join(listed)


def _others(context: Context) -> str:
    listed = _listed(context)
    return f"; also there: {', '.join(listed)}" if listed else ""
