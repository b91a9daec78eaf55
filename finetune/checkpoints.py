"""Find the newest whole checkpoint below the output folder; infer, verify, merge, serve and resume look it up here."""

from __future__ import annotations

import json
import os
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

from finetune.errors import UserError

NAME = re.compile(r"checkpoint-(\d+)$")
# The run folder itself may be the output folder; swift's own runs lie one or two folders below it.
DEPTH = 3


def newest(output_dir: str | Path) -> Path:
    """The newest whole checkpoint in any run folder below `output_dir` (or in the run folder itself).

    Newest is by the time its weights were written, then by step. Half-written ones are passed over.
    Raises UserError when there is none; the message names the half-written ones, if any.
    """
    root = Path(output_dir)
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder, so there is no adapter yet; run sft first, or name one with --adapter"
        )
    whole: list[tuple[int, int, Path]] = []
    broken: list[str] = []
    for path in find(root):
        fault = problem(path)
        if fault is None:
            whole.append((weights_time(path), step(path), path))
        else:
            broken.append(f"{path.relative_to(root)} ({fault})")
    if whole:
        return max(whole)[2]
    passed = f"; passed over: {', '.join(broken)}" if broken else ""
    raise UserError(f"{root}: no whole checkpoint below it{passed}; run sft first, or name one with --adapter")


def find(root: str | Path) -> Iterator[Path]:
    """Every folder named checkpoint-N at most DEPTH levels below `root`, whole or not, in no order."""
    start = str(root)
    base = start.rstrip(os.sep).count(os.sep)
    for folder, names, _ in os.walk(start):
        kept = []
        for name in names:
            if NAME.match(name):
                yield Path(folder, name)
            elif folder.rstrip(os.sep).count(os.sep) - base < DEPTH - 1:
                kept.append(name)
        names[:] = kept


def step(checkpoint: Path) -> int:
    """The optimizer step in a checkpoint's name; -1 for a folder that is named otherwise."""
    match = NAME.match(checkpoint.name)
    return int(match.group(1)) if match else -1


def problem(checkpoint: str | Path) -> str | None:
    """Why a folder is not a whole checkpoint (an adapter or a full model), in a few words; None when it is whole.

    Weights are read no further than their header: the header says how long the file must be.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        return "no such folder"
    config = folder / "adapter_config.json"
    if config.exists() or (folder / "adapter_model.safetensors").exists():
        return _json_fault(config) or _safetensors_fault(folder / "adapter_model.safetensors")
    if (folder / "config.json").exists():
        index = folder / "model.safetensors.index.json"
        if not index.exists():
            return _safetensors_fault(folder / "model.safetensors")
        fault = _json_fault(index)
        if fault:
            return fault
        shards = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        return next((f for f in (_safetensors_fault(folder / shard) for shard in sorted(shards)) if f), None)
    return "no adapter_config.json"


def state_problem(checkpoint: Path) -> str | None:
    """Why the trainer's state in a checkpoint is not whole; None when it is, by the headers and ends of its files."""
    if fault := _json_fault(checkpoint / "trainer_state.json"):
        return fault
    optimizer = checkpoint / "optimizer.safetensors"  # the fast lane's
    if optimizer.exists():
        return _safetensors_fault(optimizer)
    for path in sorted(checkpoint.glob("*.pt*")):  # torch.save writes zip files, whose directory is at the end
        if not zipfile.is_zipfile(path):
            return f"{path.name} is cut short"
    return None


def weights_time(checkpoint: Path) -> int:
    """When a checkpoint's weights were written, in nanoseconds; the folder's own time changes with any file in it."""
    times = [path.stat().st_mtime_ns for path in checkpoint.glob("*.safetensors")]
    return max(times, default=checkpoint.stat().st_mtime_ns)


def _json_fault(path: Path) -> str | None:
    try:
        return (
            None if isinstance(json.loads(path.read_text(encoding="utf-8")), dict) else f"{path.name} is no JSON object"
        )
    except FileNotFoundError:
        return f"no {path.name}"
    except PermissionError:
        return f"{path.name} may not be read by this user"
    except (OSError, ValueError):
        return f"{path.name} is broken"


def _safetensors_fault(path: Path) -> str | None:
    """Compare the length with what the header promises (8 bytes: n; n bytes of JSON; the tensors)."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            if length > size:
                return f"{path.name} is cut short"
            header = json.loads(file.read(length))
        end = max((t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"), default=0)
    except FileNotFoundError:
        return f"no {path.name}"
    except PermissionError:
        return f"{path.name} may not be read by this user"
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError):
        return f"{path.name} is broken"
    if end == 0:
        return f"{path.name} holds no tensors"
    return None if size == 8 + length + end else f"{path.name} is cut short"
