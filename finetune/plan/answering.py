"""How many GPUs are used for answering: as many as hold the base, or are faster; called by verify and infer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import FAILED, UserError
from common.i18n import _
from finetune.plan import gpu_memory
from finetune.plan.gpu_memory import GIB
from finetune.plan.speed import weights_scale
from qwen2.config import Config
from qwen2.room import Room

# For a decoding step of the 7B on an H100 (docs/performance.md): 6.8 ms at 128 rows, 8 ms at 192.
STEP_S, ROW_S = 4.7e-3, 1.7e-5
PROMPT = 48  # typical tokens per question
TRAINED = 1 / 3  # an adapter's answers are shorter than their limits by about this share
ONE_GIB = 1.2  # minimum for answers on one GPU, in addition to the weights
SPREAD_GIB = 3.0  # the same per GPU of several, plus what layers of one size leave unused (finetune/verify/spread.py)
START_S = 2.5  # start-up cost of a further process, as for training (finetune/plan/fast.py)


def seconds(shape: Config, limits: Sequence[int], sides: int, processes: int) -> float:
    """Estimate for all answers, the base's up to their limits and adapters' shorter, with process start-up; H100."""
    if not limits:
        return 0.0
    share = sorted(limits, reverse=True)[::processes]
    room, length = Room(), share[0] + PROMPT
    cache = 2 * shape.num_layers * shape.kv_size * 2 * length
    rows = max(1, min(len(share), room.rows, int(room.cache_gib * GIB / cache)))
    steps = max(share[0], sum(share) / rows)
    one_side = steps * (STEP_S * weights_scale(shape) + ROW_S * rows)
    return one_side * (1 + TRAINED * (sides - 1)) + (START_S if processes > 1 else 0.0)


def fastest(shape: Config, limits: Sequence[int], sides: int, setting_gib: float) -> int:
    """How many of the visible GPUs are used; if there are several, a line on stderr says so.

    Args:
        shape: The model's shape.
        limits: Maximum answer length for each question, in tokens.
        sides: How often each is asked: of the base, and of each adapter.
        setting_gib: VRAM_CEILING_GIB.
    """
    found = gpu_memory.visible()
    free = len(gpu_memory.alike(found, setting_gib))
    if free < 2:
        return 1
    times = {count: seconds(shape, limits, sides, count) for count in range(1, free + 1)}
    return gpu_memory.quickest(
        times,
        len(found),
        _(
            "GPUs: 1 of {count} answers: more would save less than their processes take to start "
            "(about {one:.0f} s of answers)"
        ),
        _("GPUs: {best} of {count} answer, about {several:.0f} s in place of {one:.0f} s; NPROC_PER_NODE=1 uses one"),
    )


def cards_to_hold(model_dir: Path, setting_gib: float) -> int:
    """How many of the visible GPUs hold the base: one or all; 1 if NVML shows none. Raises UserError if all do not.

    `setting_gib` is VRAM_CEILING_GIB.
    """
    weights_gib = sum(path.stat().st_size for path in model_dir.glob("*.safetensors")) / GIB
    rooms = [gpu_memory.ceiling_gib(gpu, setting_gib) for _name, gpu in gpu_memory.visible()]
    if not rooms or weights_gib + ONE_GIB <= rooms[0]:
        return 1
    if len(rooms) > 1 and weights_gib <= sum(max(0.0, room - SPREAD_GIB) for room in rooms):
        print(
            _("GPUs: {count}, each with a part of the layers: one does not hold {weights:.1f} GiB of weights").format(
                count=len(rooms), weights=weights_gib
            ),
            file=sys.stderr,
        )
        return len(rooms)
    raise UserError(
        _(
            "the base has {weights:.1f} GiB of weights, more than {count} GPU(s) of {room:.1f} GiB hold: start the "
            "container with more of them (GPUS=all), raise VRAM_CEILING_GIB on a larger card, or set MIRROR_DEVICE=cpu "
            "(float32: {cpu:.0f} GiB of memory, slow)"
        ).format(weights=weights_gib, count=len(rooms), room=min(rooms), cpu=2 * weights_gib),
        FAILED,
    )
