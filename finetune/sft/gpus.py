"""Which GPUs a run uses: the number in NPROC_PER_NODE, else as many as are estimated to be faster; for sft.

Without NPROC_PER_NODE, ms-swift gets one: with several visible, it would spread one model over all of them.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from common.i18n import _
from common.model_kind import STANDIN
from finetune.engines.fast import workers
from finetune.plan import gpu_memory
from finetune.sft.batch import count, lengths
from finetune.sft.description import SftRun
from qwen2.config import PROJECTIONS, Config

if TYPE_CHECKING:
    from finetune.plan.gpu_memory import Gpu


def take(run: SftRun) -> SftRun:
    """The run with its processes. This process uses the first visible GPU."""
    if run.settings.wants_cpu:
        return replace(run, workers=workers.from_env((), workers.given() or 1)) if run.choice.is_fast else run
    if not run.choice.is_fast:
        show_swift(workers.given() or 1)
        return run
    found = gpu_memory.visible()
    local = workers.given()
    if local is None:
        local = _fastest(run, found) if len(found) > 1 and count("NNODES") < 2 else 1
    return replace(run, workers=workers.from_env(gpu_memory.devices(found, local), local))


def show_swift(local: int) -> None:
    """Show ms-swift only the GPUs that it should use, unless torchrun counts them itself."""
    if os.environ.get("NPROC_PER_NODE") in ("auto", "gpu"):
        return
    names = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(local)))).split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[:local])


def _fastest(run: SftRun, found: list[tuple[str, Gpu]]) -> int:
    """How many GPUs to use, from the plan's estimate of the training time with process start-up."""
    rows = lengths(run)
    ceiling = gpu_memory.ceiling_gib(found[0][1], run.settings.vram_ceiling_gib)
    free = gpu_memory.alike(found, run.settings.vram_ceiling_gib)
    if not rows or len(free) < 2 or run.model_kind is STANDIN:
        return 1
    from finetune.plan.fast import cards_seconds

    train = run.choice.train
    seconds = cards_seconds(
        Config.from_dir(run.model_dir), rows, len(free), train["batch_size"], ceiling, train.get("lora_rank", 8),
        train.get("lora_dropout", 0.05), train.get("target_modules", PROJECTIONS),
        train.get("num_train_epochs", 3.0), train.get("max_steps", -1),
    )  # fmt: skip
    if not seconds:
        return 1  # the plan of the run reports why nothing fits
    return gpu_memory.quickest(
        seconds,
        len(found),
        _(
            "GPUs: 1 of {count} trains: more would save less than their processes take to start "
            "(about {one:.0f} s of training)"
        ),
        _("GPUs: {best} of {count} train, about {several:.0f} s in place of {one:.0f} s; NPROC_PER_NODE=1 uses one"),
    )
