"""Is there room for a merged model: on the disk, on the GPU, in memory? Commands ask before anything slow starts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from common.errors import UserError
from common.i18n import N_, _

GIB = 2**30
# Disk space besides the weights: for the tokenizer and the card, and some that stays free.
DISK_MARGIN = 256 * 2**20
# GPU memory holds the weights once, the difference of one layer, and the CUDA context.
GPU_FACTOR, GPU_MARGIN = 1.1, 1 * GIB
MEMORY_FACTOR = 1.15


def weights_bytes(model_dir: Path) -> int:
    """Bytes of a model folder's safetensors files. Raises UserError if it has none."""
    total = sum(path.stat().st_size for path in model_dir.glob("*.safetensors"))
    if not total:
        raise UserError(
            _("{model_dir}: no *.safetensors in it, so it is not a base model; name it with --model DIR").format(
                model_dir=model_dir
            )
        )
    return total


def require_disk(target: Path, weights: int, what: str = N_("the merged model")) -> None:
    """Check the disk that `target` will be on.

    Args:
        target: The folder to be written; it need not exist.
        weights: Bytes to be written.
        what: What they are, for the message.

    Raises:
        UserError: There is no room for them and DISK_MARGIN.
    """
    need, free = weights + DISK_MARGIN, shutil.disk_usage(_existing(target)).free
    if free < need:
        raise UserError(
            _(
                "{target}: no room: {what} needs {need:.1f} GiB and {free:.1f} GiB are free there; free "
                "some, or name a folder on another disk with --output DIR"
            ).format(target=target, what=_(what), need=need / GIB, free=free / GIB)
        )


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(each for each in (path, *path.parents) if each.exists())


def choose_device(wants_cpu: bool, weights: int, ceiling_gib: float = 0.0) -> tuple[str, str]:
    """Choose the GPU if the weights fit there, else the CPU.

    Args:
        wants_cpu: Whether the settings ask for the CPU.
        weights: Bytes of the weights.
        ceiling_gib: The limit on GPU memory, in GiB; 0 sets none.

    Returns:
        "cuda" or "cpu", and why.
    """
    if wants_cpu:
        return "cpu", _("no GPU was asked for, or none is visible")
    import torch

    if not torch.cuda.is_available():
        return "cpu", _("no CUDA GPU answers")
    free, _other = torch.cuda.mem_get_info()
    need = int(weights * GPU_FACTOR) + GPU_MARGIN
    if 0 < ceiling_gib * GIB < min(free, need):
        return "cpu", _(
            "VRAM_CEILING_GIB={ceiling_gib:g} is below the {need:.1f} GiB that merging on a GPU needs"
        ).format(ceiling_gib=ceiling_gib, need=need / GIB)
    if free < need:
        return "cpu", _("{free:.1f} GiB of GPU memory are free; merging there needs {need:.1f} GiB").format(
            free=free / GIB, need=need / GIB
        )
    return "cuda", _("{free:.1f} GiB of GPU memory are free").format(free=free / GIB)


def require_memory(weights: int, check: bool) -> None:
    """Check the memory for a merge on the CPU.

    Args:
        weights: Bytes of the weights in bfloat16.
        check: Whether the merged model is asked afterwards, which takes float32.

    Raises:
        UserError: The memory is too small.
    """
    _require_free(weights * MEMORY_FACTOR, _("merging on the CPU"), _("use a larger machine"))
    if check:
        require_memory_to_ask(weights)


def require_memory_to_ask(weights: int) -> None:
    """Raises UserError if memory is too small to run a model of `weights` bytes (bfloat16) on the CPU, in float32."""
    _require_free(2 * weights * MEMORY_FACTOR, _("the check on the CPU (float32)"), _("skip it with --no-check"))


def _require_free(need: float, what: str, remedy: str) -> None:
    free = free_memory()
    if free is not None and free < need:
        raise UserError(
            _(
                "no room: {what} needs {need:.1f} GiB of memory and {free:.1f} GiB are free; end other "
                "programs, or {remedy}"
            ).format(what=what, need=need / GIB, free=free / GIB, remedy=remedy)
        )


def free_memory() -> int | None:
    """Bytes of memory that are still free to this container; None if the kernel does not say."""
    known = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                known.append(int(line.split()[1]) * 1024)
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            known.append(max(0, int(limit) - _used(group)))
    except (OSError, ValueError, IndexError):
        pass
    return min(known, default=None)


def _used(group: Path) -> int:
    """Bytes that the container uses, without the part of the page cache that the kernel reclaims first."""
    used = int((group / "memory.current").read_text())
    for line in (group / "memory.stat").read_text().splitlines():
        name, _other, value = line.partition(" ")
        if name == "inactive_file":
            used -= int(value)
    return used


def require_target(target: Path) -> None:
    """Raises UserError if the folder to be written exists and is not empty, or cannot be created."""
    try:
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise UserError(
                _("{target}: exists and is not a folder; name another with --output DIR").format(target=target)
            )
        if target.is_dir() and any(target.iterdir()):
            raise UserError(
                _("{target}: exists and is not empty; remove it, or name another with --output DIR").format(
                    target=target
                )
            )
        place = _existing(target.parent)
    except OSError as error:
        raise UserError(
            _("{target}: cannot be read ({strerror}); name another with --output DIR").format(
                target=target, strerror=error.strerror
            )
        ) from error
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            _("{target}: {place} cannot be written by this user; name another folder with --output DIR").format(
                target=target, place=place
            )
        )
