"""How much memory a run may use: the GPU's, from NVML or --gpu, below VRAM_CEILING_GIB; called by the command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.i18n import _
from common.settings import gpu_visible
from finetune.plan.swift import card_ceiling

if TYPE_CHECKING:
    from healthchecks.nvml import Gpu as Gpu

GIB = 2**30
CONTEXT_GIB = 0.6  # a CUDA context, which the allocator's ceiling does not include
ASSUMED_GIB = 24.0  # the GPU of the article's readers, if none is present or named


@dataclass(frozen=True)
class Card:
    """The GPU's memory and the part used for planning, in GiB; `why` says which limit decided."""

    name: str
    gib: float
    ceiling_gib: float
    why: str


def find(gpu_gib: float | None, setting_gib: float, nvml: Callable[[], Any] | None = None) -> Card:
    """The GPU given by --gpu (GiB), else the first visible one, else 24 GB. `setting_gib` 0: no ceiling was set."""
    if gpu_gib is not None:
        if not 0 < gpu_gib < 1e5:
            raise UserError(_("--gpu {gpu_gib:g}: must be a size in GiB, for example 24").format(gpu_gib=gpu_gib))
        return _named(_("a card of {gpu_gib:g} GB").format(gpu_gib=gpu_gib), gpu_gib, setting_gib)
    gpu = next((gpu for _name, gpu in visible(nvml)), None)
    if gpu is None:
        return _named(
            _("no GPU here, so a card of {assumed_gib:g} GB is assumed (--gpu names another)").format(
                assumed_gib=ASSUMED_GIB
            ),
            ASSUMED_GIB,
            setting_gib,
        )
    free = ceiling_gib(gpu, 0.0)
    total = gpu.total / GIB
    if 0 < setting_gib <= free:
        return Card(gpu.name, total, setting_gib, f"VRAM_CEILING_GIB={setting_gib:g}")
    return Card(
        gpu.name,
        total,
        round(free, 2),
        _("{free:.1f} GiB are free, less {context_gib:g} for CUDA itself").format(
            free=gpu.free / GIB, context_gib=CONTEXT_GIB
        ),
    )


def _named(name: str, gib: float, setting_gib: float) -> Card:
    possible = card_ceiling(gib)
    if 0 < setting_gib <= possible:
        more = (
            _(" (this card allows VRAM_CEILING_GIB={possible:g})").format(possible=possible)
            if possible - setting_gib >= 1
            else ""
        )
        return Card(name, gib, setting_gib, f"VRAM_CEILING_GIB={setting_gib:g}{more}")
    return Card(name, gib, possible, _("{gib:.1f} GiB are left to CUDA and the display").format(gib=gib - possible))


def ceiling_gib(gpu: Gpu, setting_gib: float) -> float:
    """The GiB of a GPU that a run may plan with: VRAM_CEILING_GIB, or what is free (setting 0: no ceiling was set)."""
    free = max(0.0, gpu.free / GIB - CONTEXT_GIB)
    return setting_gib if 0 < setting_gib <= free else free


def visible(nvml: Callable[[], Any] | None = None) -> list[tuple[str, Gpu]]:
    """The GPUs that CUDA will see, each by its name for CUDA_VISIBLE_DEVICES; [] if NVML shows none."""
    if nvml is None:
        if not gpu_visible():
            return []
        nvml = _pynvml
    from healthchecks.nvml import NvmlProblem, read

    try:
        gpus = read(nvml()).gpus
    except (ImportError, NvmlProblem):
        return []
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [str(index) for index in range(len(gpus))] if not wanted.strip() else wanted.split(",")
    found = []
    for name in map(str.strip, names):
        if name.isdecimal():
            gpu = gpus[int(name)] if int(name) < len(gpus) else None
        else:  # a MIG instance's name matches no GPU in NVML: the first stands for it
            gpu = next((gpu for gpu in gpus if name and gpu.uuid.startswith(name)), gpus[0] if name and gpus else None)
        if gpu is None:
            break  # CUDA ignores everything after a name that it does not know
        found.append((name, gpu))
    return found


def devices(found: Sequence[tuple[str, Gpu]], count: int) -> tuple[str, ...]:
    """Their names for CUDA_VISIBLE_DEVICES, or `count` that CUDA is to look for if NVML shows none."""
    if found:
        return tuple(name for name, _gpu in found)
    return tuple((os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))).split(","))


def alike(found: Sequence[tuple[str, Gpu]], setting_gib: float) -> list[str]:
    """The names for CUDA_VISIBLE_DEVICES of the GPUs of the first one's model with as much free memory for a run."""
    if not found:
        return []
    first = found[0][1]
    least = ceiling_gib(first, setting_gib)
    return [name for name, gpu in found if gpu.name == first.name and ceiling_gib(gpu, setting_gib) >= least]


def _pynvml() -> Any:
    import pynvml

    return pynvml


def quickest(seconds: Mapping[int, float], count: int, one: str, several: str) -> int:
    """The fastest of {processes: estimated seconds}; a line on stderr, one of two translated sentences, says so."""
    best = min(seconds, key=lambda processes: seconds[processes])
    line = one if best == 1 else several
    print(line.format(best=best, count=count, several=seconds[best], one=seconds[1]), file=sys.stderr)
    return best
