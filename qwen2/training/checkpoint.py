"""Writes and reads checkpoint-N folders, so that a kill at any time leaves only complete ones; called by train."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from common import sha256sums
from common.i18n import _
from qwen2.adapter_config import CONFIG_FILE
from qwen2.lora import Adapter
from qwen2.model import Model
from qwen2.training.backprop import Recompute

STATE_FILE = "trainer_state.json"
OPTIMIZER_FILE = "optimizer.safetensors"
_NAME = re.compile(r"checkpoint-(\d+)")


def list_checkpoints(folder: Path) -> list[Path]:
    """checkpoint-N folders of a run, oldest step first."""
    found = [(int(m[1]), p) for p in folder.glob("checkpoint-*") if (m := _NAME.fullmatch(p.name)) and p.is_dir()]
    return [path for _, path in sorted(found)]


def clean(folder: Path) -> None:
    """Remove incomplete files of a killed run. A folder gets its final name only once it is complete."""
    for path in folder.glob(".checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)


def save(
    folder: Path,
    step: int,
    adapter: Adapter,
    moments: tuple[Tensor, Tensor] | None,
    state: dict[str, Any],
    extra_files: Mapping[str, str],
    keep: int | None,
    best: str | None = None,
) -> Path:
    """Write folder/checkpoint-`step`, then remove all but the newest `keep`; `best` stays and counts as one of them.

    `moments` None is for the run's last checkpoint, from which nothing is resumed. It is written under a hidden name,
    synced and renamed: a visible checkpoint-N is always complete. Raises OSError if that fails; nothing is left then.
    """
    from safetensors import SafetensorError

    final = folder / f"checkpoint-{step}"
    temporary = folder / f".checkpoint-{step}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _write(temporary, adapter, moments, state, extra_files)
    except SafetensorError as error:  # reports a full disk, among other things
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(errno.EIO, str(error), str(final)) from None
    except BaseException:  # an incomplete checkpoint would keep its space
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if final.exists():  # a resumed run reaches the same step again
        shutil.rmtree(final)
    os.rename(temporary, final)
    _sync(folder)
    if keep:
        found = list_checkpoints(folder)
        if best is not None and final.name != best:
            found.sort(key=lambda path: (path == final, path.name == best))  # best is the last but one
            keep = max(keep, 2)
        for old in found[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    return final


def save_earlier(folder: Path, step: int, adapter: Adapter) -> Path:
    """Write the adapter of an earlier step of a finished run as checkpoint-`step`; it replaces all other checkpoints.

    The state and the files next to the adapter are those of the last checkpoint, cut at `step`. Raises OSError if it
    cannot be written; the others are kept then.
    """
    *_, last = list_checkpoints(folder)
    saved = last if last.name == f"checkpoint-{step}" else _cut(folder, last, step, adapter)
    for old in list_checkpoints(folder):
        if old != saved:
            shutil.rmtree(old, ignore_errors=True)
    return saved


def _cut(folder: Path, last: Path, step: int, adapter: Adapter) -> Path:
    state = json.loads((last / STATE_FILE).read_text(encoding="utf-8"))
    epoch = round(state["epoch"] * step / state["global_step"], 8)
    history = [line for line in state["log_history"] if line["step"] <= step]
    state |= {"global_step": step, "epoch": epoch, "log_history": history, "history": state["history"][:step]}
    extra = {
        path.name: path.read_text(encoding="utf-8")
        for path in last.glob("*.json")
        if path.name not in (STATE_FILE, CONFIG_FILE)
    }
    return save(folder, step, adapter, None, state, extra, None)


def _write(
    temporary: Path,
    adapter: Adapter,
    moments: tuple[Tensor, Tensor] | None,
    state: dict[str, Any],
    extra_files: Mapping[str, str],
) -> None:
    from safetensors.torch import save_file

    adapter.save(temporary)
    if moments is not None:
        first, second = (moment.detach().cpu() for moment in moments)
        save_file({"exp_avg": first, "exp_avg_sq": second}, str(temporary / OPTIMIZER_FILE))
    (temporary / STATE_FILE).write_text(json.dumps(state, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, text in extra_files.items():
        (temporary / name).write_text(text, encoding="utf-8")
    # safetensors makes its files private to their owner. They get the mode that the umask gave the text next to them.
    mode = (temporary / STATE_FILE).stat().st_mode
    for path in temporary.iterdir():
        path.chmod(mode)
    sha256sums.write(temporary)
    for path in temporary.iterdir():
        _sync(path)
    _sync(temporary)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def split_of(path: Path) -> tuple[Recompute, int | None] | None:
    """(recompute, micro_batch_tokens) that a checkpoint was trained with; None if it does not record them."""
    try:
        split = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))["split"]
        recompute, tokens = split["recompute"], split["micro_batch_tokens"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_known = recompute in get_args(Recompute) and (tokens is None or (isinstance(tokens, int) and tokens > 0))
    return (recompute, tokens) if is_known else None


def load(path: Path, model: Model) -> tuple[Adapter, tuple[Tensor, Tensor], dict[str, Any]]:
    """(adapter, moments, state) of a checkpoint from `save`. Raises ValueError, for the user, if it does not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    adapter = Adapter.load(path, model)
    try:
        state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
        if state.get("engine") == "fast" and state["global_step"] >= state["max_steps"]:
            return adapter, (adapter.flat, adapter.flat), state  # the end of a run: the caller reports it
        moments = load_file(str(path / OPTIMIZER_FILE), device="cpu")
        pair = moments["exp_avg"].to(model.device), moments["exp_avg_sq"].to(model.device)
        if any(moment.shape != adapter.flat.shape or moment.dtype != torch.float32 for moment in pair):
            raise ValueError(_("the optimizer state and the adapter differ in size"))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(
            _(
                "{path} cannot be resumed by the fast lane ({error}); use ENGINE=swift for a checkpoint of ms-swift"
            ).format(path=path, error=error)
        ) from None
    return adapter, pair, state


def require_same_run(path: Path, state: dict[str, Any], fingerprint: str, total: int) -> None:
    """Raises ValueError if a checkpoint's state is from a run with another fingerprint, or from the end of its run."""
    if state.get("fingerprint") != fingerprint:
        raise ValueError(
            _(
                "{path} belongs to a run with other data or settings; resume it with the same, or start a new run"
            ).format(path=path)
        )
    if int(state["global_step"]) >= total:
        raise ValueError(
            _("{path} is the end of its run: all {total} steps are done; there is nothing to resume").format(
                path=path, total=total
            )
        )
