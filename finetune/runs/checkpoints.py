"""Finds the newest complete checkpoint below the output folder; for infer, verify, merge, serve and resume."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from common import host, sha256sums
from common.errors import UserError
from common.i18n import _
from common.json_files import json_object
from qwen2 import safetensors_header
from qwen2.adapter_config import BIN_FILE, CONFIG_FILE, WEIGHTS_FILE
from qwen2.safetensors_header import BrokenHeader

NAME = re.compile(r"checkpoint-(\d+)$")
# The run folder itself may be the output folder; swift's own runs are one or two folders below it.
DEPTH = 3
Ordered = tuple[int, bool, int, Path]  # number or time; whether it is the run's adapter; step; folder


def newest(output_dir: str | Path) -> Path:
    """The newest complete checkpoint in any run folder below `output_dir` (or in the run folder itself).

    For our runs this is the final adapter of the run with the highest number, whatever the clock said: the last step,
    or the best one with --load_best_model_at_end. Among ms-swift's own runs, and between those and ours, it is the one
    whose weights were written last. Incomplete and modified checkpoints are skipped
    and named. Raises UserError if there is none; the message names the skipped ones.
    """
    root = Path(output_dir)
    if not root.is_dir():
        raise UserError(
            _(
                "{folder}: no such folder, so there is no adapter yet; run {finetune} first, or name one with {option}"
            ).format(folder=root, finetune=host.call("finetune"), option=_option())
        )
    numbered: list[Ordered] = []
    others: list[Ordered] = []
    for path in find(root):
        number, adapter = of_run(path.parent)
        where = numbered if number else others
        where.append((number or weights_time(path), adapter == path.name, step(path), path))
    broken: list[str] = []
    best = [found for group in (numbered, others) if (found := _first_whole(group, root, broken))]
    if best:
        for name in broken:
            print(_("note: skipped: {name}").format(name=name), file=sys.stderr)
        return max(best, key=weights_time)
    passed = _("; skipped: {names}").format(names=", ".join(broken)) if broken else ""
    raise UserError(
        _("{folder}: no complete checkpoint below it{passed}; run {finetune} first, or name one with {option}").format(
            folder=root, passed=passed, finetune=host.call("finetune"), option=_option()
        )
    )


def _option() -> str:
    """How to refer to an adapter where one is expected."""
    return "ADAPTER=DIR" if host.via_make() else "--adapter DIR"


def _first_whole(group: list[Ordered], root: Path, broken: list[str]) -> Path | None:
    """The last complete checkpoint in order; those skipped before it are added to `broken`."""
    for *_order, path in sorted(group, reverse=True):
        fault = problem(path)
        if fault is None:
            return path
        broken.append(f"{path.relative_to(root)} ({fault})")
    return None


def run_number(folder: Path) -> int:
    """The number of one of our runs, from its run.json; higher is later. 0 for any other folder."""
    return of_run(folder)[0]


def of_run(folder: Path) -> tuple[int, str | None]:
    """(`run_number`, the name of the checkpoint that is a finished run's adapter), from its run.json."""
    record = json_object(folder / "run.json")
    number, adapter = record.get("number"), record.get("adapter")
    is_done = record.get("status") == "done" and isinstance(adapter, str)
    return (number if isinstance(number, int) and number > 0 else 0), adapter if is_done else None


def best(folder: Path) -> Path | None:
    """The complete checkpoint with the best evaluation, from the last line of a run's log; None if it names none."""
    try:
        *_other, last = (folder / "logging.jsonl").read_text(encoding="utf-8").splitlines()
        path = folder / Path(str(json.loads(last)["best_model_checkpoint"])).name
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return path if step(path) > 0 and problem(path) is None else None


def find(root: str | Path) -> Iterator[Path]:
    """Every folder named checkpoint-N at most DEPTH levels below `root`, complete or not, unordered."""
    start = str(root)
    base = start.rstrip(os.sep).count(os.sep)
    for folder, names, _files in os.walk(start):
        kept = []
        for name in names:
            if NAME.match(name):
                yield Path(folder, name)
            elif folder.rstrip(os.sep).count(os.sep) - base < DEPTH - 1:
                kept.append(name)
        names[:] = kept


def step(checkpoint: Path) -> int:
    """The optimizer step in a checkpoint's name; -1 for a folder with another kind of name."""
    match = NAME.match(checkpoint.name)
    return int(match.group(1)) if match else -1


def problem(checkpoint: str | Path) -> str | None:
    """Why a folder is not a complete checkpoint (an adapter or a full model), in a few words; None if it is complete.

    The header of the weights gives the required file length. An adapter with SHA256SUMS is read completely.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        return _("no such folder")
    config = folder / CONFIG_FILE
    weights = folder / WEIGHTS_FILE
    if config.exists() or weights.exists() or (folder / BIN_FILE).exists():
        if not weights.exists() and (folder / BIN_FILE).exists():
            weights = folder / BIN_FILE
        fault = _bin_fault(weights) if weights.name == BIN_FILE else _safetensors_fault(weights)
        return _json_fault(config) or fault or _sums_fault(folder, config.name, weights.name)
    if (folder / "config.json").exists():
        index = folder / "model.safetensors.index.json"
        if not index.exists():
            return _safetensors_fault(folder / "model.safetensors")
        fault = _json_fault(index)
        if fault:
            return fault
        shards = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        return next((f for f in (_safetensors_fault(folder / shard) for shard in sorted(shards)) if f), None)
    return _("no adapter_config.json")


def state_problem(checkpoint: Path) -> str | None:
    """Why the trainer's state in a checkpoint is incomplete, by headers, ends and any checksums; None if complete."""
    if fault := _json_fault(checkpoint / "trainer_state.json"):
        return fault
    optimizer = checkpoint / "optimizer.safetensors"  # the fast lane's
    if optimizer.exists() and (fault := _safetensors_fault(optimizer)):
        return fault
    states = sorted(checkpoint.glob("*.pt*"))
    for path in states:  # torch.save writes zip files, with a directory at the end and a checksum per part
        if not zipfile.is_zipfile(path):
            return _("{name} is cut short").format(name=path.name)
    states += [optimizer] if optimizer.exists() else []
    return _sums_fault(checkpoint, "trainer_state.json", *(path.name for path in states))


def seal(folder: Path) -> None:
    """Write SHA256SUMS to complete checkpoints (ms-swift's) below a run's folder that have none; best effort."""
    for path in find(folder):
        if not (path / sha256sums.NAME).exists() and problem(path) is None and state_problem(path) is None:
            with contextlib.suppress(OSError):
                _share(path)
                sha256sums.write(path)


def _share(checkpoint: Path) -> None:
    """Give tensor files, which safetensors makes private to their owner, the permissions of the text next to them."""
    mode = (checkpoint / "trainer_state.json").stat().st_mode
    for path in checkpoint.glob("*.safetensors"):
        path.chmod(mode)


def unseal(folder: Path, after: int) -> None:
    """Remove SHA256SUMS from checkpoints later than step `after`: a resumed run writes them again."""
    for path in find(folder):
        if step(path) > after:
            (path / sha256sums.NAME).unlink(missing_ok=True)


def weights_time(checkpoint: Path) -> int:
    """When a checkpoint's weights were written, in nanoseconds; the folder's time changes with any file in it."""
    weights = [*checkpoint.glob("*.safetensors"), *checkpoint.glob(BIN_FILE)]
    times = [path.stat().st_mtime_ns for path in weights]
    return max(times, default=checkpoint.stat().st_mtime_ns)


def _sums_fault(folder: Path, *names: str) -> str | None:
    try:
        name = sha256sums.changed(folder, names)
    except OSError as error:
        return _("{name} cannot be read ({strerror})").format(
            name=Path(str(error.filename)).name, strerror=error.strerror
        )
    return (
        _("{name} was changed since it was written, see {sums}").format(name=name, sums=sha256sums.NAME)
        if name
        else None
    )


def _json_fault(path: Path) -> str | None:
    try:
        return (
            None
            if isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
            else _("{name} is not a JSON object").format(name=path.name)
        )
    except (OSError, ValueError) as error:
        return _unreadable(path, error)


def _unreadable(path: Path, error: Exception) -> str:
    """What kept a file from being read."""
    if isinstance(error, FileNotFoundError):
        return f"no {path.name}"
    if isinstance(error, PermissionError):
        return _("{name} may not be read by this user").format(name=path.name)
    return _("{name} is broken").format(name=path.name)


def _bin_fault(path: Path) -> str | None:
    """torch.save writes a zip file, whose directory is at its end."""
    try:
        with path.open("rb") as file:
            is_zip = zipfile.is_zipfile(file)
    except OSError:
        return _("{name} may not be read by this user").format(name=path.name)
    return (
        None
        if is_zip
        else _("{name} is cut short, or a pickle, which is never loaded; save it as {weights_file}").format(
            name=path.name, weights_file=WEIGHTS_FILE
        )
    )


def _safetensors_fault(path: Path) -> str | None:
    """Compare the file's length with the length in its header."""
    try:
        header = safetensors_header.read(path)
    except BrokenHeader as error:
        fault = _("{name} is cut short") if error.is_cut and error.size > 8 else _("{name} is broken")
        return fault.format(name=path.name)
    except OSError as error:
        return _unreadable(path, error)
    if header.end == header.begin:
        return _("{name} holds no tensors").format(name=path.name)
    return None if header.size == header.end else _("{name} is cut short").format(name=path.name)
