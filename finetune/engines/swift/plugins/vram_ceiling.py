"""ms-swift plugin: VRAM_CEILING_GIB as a hard limit on the CUDA allocator, and a one-line error when memory runs out.

The swift launcher adds it to every command; ms-swift imports it in each process that holds a model. It does not import
`finetune`, which is not on those processes' path. 0 lifts the ceiling; the one-line error stays. The CUDA context
(0.5 GiB) is outside the allocator, hence outside the ceiling. With several processes (NPROC_PER_NODE), each one that
runs out reports it, and torchrun, their parent, adds its own report of which of them failed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import torch
from swift.arguments import BaseArguments
from swift.utils import get_logger
from tqdm import tqdm

GIB = 2**30
# Ways to save memory, by subcommand, which is the name of the script that ms-swift runs (swift/cli/sft.py).
LOWER = dict.fromkeys(("sft", "pt", "rlhf"), "lower --per_device_train_batch_size or --max_length") | dict.fromkeys(
    ("infer", "deploy", "app", "eval", "sample"), "lower --max_batch_size or --max_new_tokens"
)
KEPT = {"sft", "pt", "rlhf"}


def ceiling_gib() -> float:
    """VRAM_CEILING_GIB, 22 if it is unset; 0 if it is not a number, which the launcher has already rejected."""
    try:
        return max(0.0, float(os.environ.get("VRAM_CEILING_GIB") or "22"))
    except ValueError:
        return 0.0


def devices() -> list[int]:
    """The GPUs of this process: under torchrun its own, else all visible ones."""
    count = torch.cuda.device_count()
    rank = os.environ.get("LOCAL_RANK", "")
    return [int(rank)] if rank.isdecimal() and int(rank) < count else list(range(count))


def cap() -> None:
    """Limit the allocator on every GPU of this process. Called by torch when it initialises CUDA."""
    gib = ceiling_gib()
    for device in devices() if gib else []:
        total = torch.cuda.get_device_properties(device).total_memory
        if gib * GIB >= total:
            continue
        with torch.cuda.device(device):  # setting the fraction makes its device current
            torch.cuda.set_per_process_memory_fraction(gib * GIB / total, device)
        get_logger().info(f"GPU {device}: at most {gib:g} of {total / GIB:.1f} GiB (VRAM_CEILING_GIB; 0 lifts it)")


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and all its causes and contexts."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, even if another exception followed from it."""
    return any(
        # A RuntimeError if not the allocator but the driver had no memory left: for the context, or for cuBLAS.
        isinstance(link, torch.OutOfMemoryError) or (isinstance(link, RuntimeError) and "out of memory" in str(link))
        for link in chain(error)
    )


def measured() -> tuple[float, float, float, int] | None:
    """For the fullest GPU, in GiB: the peak, what this process could have, the total; and its number. None on a CPU."""
    if not torch.cuda.is_initialized():
        return None
    device = max(devices(), key=torch.cuda.max_memory_reserved)
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError:  # the driver no longer responds
        return None
    peak, held = torch.cuda.max_memory_reserved(device), torch.cuda.memory_reserved(device)
    return peak / GIB, (held + free) / GIB, total / GIB, device


def out_of_memory_line(command: str) -> str:
    """What ran out, at which peak, and what to change. `command` is ms-swift's subcommand."""
    ceiling, figures = ceiling_gib(), measured()
    limit = f"VRAM_CEILING_GIB={ceiling:g} allows no more"
    peak = ""
    if figures:
        reached, available, total, device = figures
        peak = f" at a peak of {reached:.1f} GiB"
        if not 0 < ceiling <= available:  # the GPU was full before the ceiling was reached
            limit = f"of the {total:.1f} GiB of GPU {device} this process could have {available:.1f}"
            limit += f", VRAM_CEILING_GIB is {ceiling:g}"
    elif not ceiling:
        limit = "the card has no more"
    higher = "raise VRAM_CEILING_GIB on a larger card (0 lifts it)" if ceiling else "take a larger card"
    remedy = ", or ".join(filter(None, [LOWER.get(command), higher]))
    kept = "; the checkpoints written so far are kept" if command in KEPT else ""
    return f"error: out of GPU memory{peak}: {limit}; {remedy}; `plan` shows what fits{kept}"


_before = sys.excepthook


def say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """sys.excepthook: one line if memory ran out; the previous hook for everything else. The exit code is 1."""
    if not is_out_of_memory(error):
        _before(kind, error, trace)
        return
    sys.stdout.flush()
    for bar in list(tqdm._instances):  # an open progress bar would redraw itself after the line
        bar.close()
    print(out_of_memory_line(Path(sys.argv[0]).stem), file=sys.stderr, flush=True)


_save_args = BaseArguments.save_args


def _save_args_without_this(self: BaseArguments, output_dir: str | None = None) -> None:
    """args.json without our plugins: elsewhere the adapter could not be loaded, and here the launcher adds them."""
    plugins = self.external_plugins
    ours = {path.name for path in Path(__file__).parent.glob("*.py")}
    self.external_plugins = [name for name in plugins if Path(name).name not in ours]
    try:
        _save_args(self, output_dir)
    finally:
        self.external_plugins = plugins


sys.excepthook = say
BaseArguments.save_args = _save_args_without_this
# Not set_per_process_memory_fraction at import: it would initialise CUDA before ms-swift has chosen its device.
torch.cuda._lazy_call(cap)
