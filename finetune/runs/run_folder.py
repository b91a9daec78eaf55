"""A run's folder: created below the output folder, with run.json, the run's record; used by train."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import host
from common.errors import FAILED, UserError
from common.i18n import _
from common.json_files import json_object
from finetune.runs import checkpoints
from finetune.runs.folder_lock import locked

PACKAGES = ("ms-swift", "torch", "transformers", "peft", "accelerate")
RUN_NAME = re.compile(r"[\w][\w.+-]*")


def make_folder(output_dir: Path, name: str, kind: str) -> Path:
    """A new folder for one run: `output_dir`/`name`, or kind-YYYYmmdd-HHMMSS. Raises UserError if it cannot be created.

    A run never uses the folder of an older one: it would be unclear which checkpoint belongs to which run.
    """
    if name and not RUN_NAME.fullmatch(name):
        raise UserError(_("--run {name}: not a folder name; use letters, digits, - and _").format(name=name))
    base = name or time.strftime(f"{kind}-%Y%m%d-%H%M%S")
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for number in range(1, 100):
            folder = output_dir / (base if number == 1 else f"{base}-{number}")
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                if name:
                    claim(folder)
                    return folder
    except OSError as error:
        raise UserError(
            _(
                "{output_dir}: cannot be written ({strerror}); start as its owner, or name another with OUTPUT_DIR"
            ).format(output_dir=output_dir, strerror=error.strerror)
        ) from error
    raise UserError(_("{output_dir}: a hundred runs in one second; wait a second").format(output_dir=output_dir))


def load(folder: Path) -> dict[str, Any]:
    """run.json in a run's folder. Raises UserError if there is none or it cannot be read."""
    path = folder / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            _("{path}: {strerror}; name the folder of a run, below $OUTPUT_DIR").format(
                path=path, strerror=error.strerror
            )
        ) from None
    except ValueError:
        raise UserError(_("{path}: is broken; start a new run").format(path=path)) from None
    if not isinstance(record, dict):
        raise UserError(_("{path}: not a record of a run; start a new run").format(path=path))
    return record


def newest(output_dir: Path) -> Path:
    """The most recently started run below `output_dir`. Raises UserError if there is none."""
    found = all_runs(output_dir)
    if not found:
        raise UserError(
            _("{output_dir}: holds no run that could be resumed; {command} starts one").format(
                output_dir=output_dir, command=host.call("sft")
            )
        )
    return found[-1][0].resolve()


def all_runs(output_dir: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The runs below a folder with their records, in starting order: by number, then by clock."""
    found = []
    for path in output_dir.glob("*/run.json"):
        try:
            record = load(path.parent)
            order = checkpoints.run_number(path.parent), str(record.get("started", "")), path.stat().st_mtime_ns
        except (UserError, OSError):
            continue
        found.append((order, path.parent, record))
    return [(folder, record) for _other, folder, record in sorted(found, key=lambda each: each[:2])]


def next_number(folder: Path) -> int:
    """The number for a run that starts now: above those of all runs next to it. Wall-clock time is not used."""
    return 1 + max((checkpoints.run_number(path.parent) for path in folder.parent.glob("*/run.json")), default=0)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock a run's folder while it is written, across containers. Raises UserError (exit code 1) if it is locked.

    Child processes inherit the lock, since ms-swift continues if only its parent process was killed. Nothing is locked
    if the file system has no locks.
    """
    with locked(folder, inherited=True) as had:
        if had is False:
            raise UserError(
                _(
                    "{folder}: another container or process is training this run; wait for its end, or start a new run"
                ).format(folder=folder),
                FAILED,
            )
        yield


def _is_free(folder: Path) -> bool:
    """Whether nobody holds a run's folder; False if that cannot be determined."""
    try:
        with locked(folder) as had:
            return had is True
    except OSError:
        return False


def tell_of_killed(output_dir: Path, script: str) -> None:
    """Report on stderr, once for each, which runs below a folder were killed: their run.json says they still run.

    Nobody could record it when it happened: SIGKILL, the memory limit, a machine crash.
    """
    for folder, record in all_runs(output_dir):
        if record.get("status") != "running" or not _is_free(folder):
            continue
        if (adapter := _last_checkpoint(folder)) is not None:  # killed after the last step: nothing is missing
            with contextlib.suppress(UserError):
                write(folder, record | progress(folder) | {"status": "done", "adapter": adapter.name, "exit_code": 0})
            continue
        record |= {"status": "killed"} | progress(folder)
        saved = sorted((path for path in checkpoints.find(folder) if not _resume_fault(path)), key=checkpoints.step)
        if saved:
            again = host.call(script.removesuffix(".sh"), "--resume", folder)
            what = _("its newest complete checkpoint is {name}, {again} continues from it").format(
                name=saved[-1].name, again=again
            )
        else:
            what = _("it had saved no complete checkpoint")
        print(
            _(
                "note: {folder}: was killed at step {record} (SIGKILL, the memory limit of docker run "
                "--memory, a full disk, or the machine went down); {what}"
            ).format(folder=host.shown(folder), record=record.get("steps", 0), what=what),
            file=sys.stderr,
        )
        with contextlib.suppress(UserError):  # another user's, or read-only: it is then reported again
            write(folder, record)


def _last_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of a run's last step, if it got that far."""
    for path in checkpoints.find(folder):
        state = json_object(path / "trainer_state.json")
        if state.get("global_step") == state.get("max_steps") == checkpoints.step(path) and not checkpoints.problem(
            path
        ):
            return path
    return None


# The files, besides the adapter, that a checkpoint must have to be resumed: the fast lane's, ms-swift's.
STATE = ({"trainer_state.json", "optimizer.safetensors"}, {"trainer_state.json", "optimizer.pt", "scheduler.pt"})


def resumable(folder: Path) -> Path:
    """The newest checkpoint of a run that training can resume from; incomplete ones are skipped and named."""
    for path in sorted(checkpoints.find(folder), key=checkpoints.step, reverse=True):
        fault = _resume_fault(path)
        if fault is None:
            return path
        print(_("resume: {name} is skipped: {fault}").format(name=path.name, fault=fault), file=sys.stderr)
    raise UserError(
        _("{folder}: holds no complete checkpoint, so nothing is lost by starting again with {command}").format(
            folder=folder, command=host.call("sft")
        )
    )


def _resume_fault(checkpoint: Path) -> str | None:
    """Why training cannot resume from a checkpoint; None if it can."""
    held = {child.name for child in checkpoint.iterdir()}
    fault = checkpoints.problem(checkpoint)
    if fault is None and not any(names <= held for names in STATE):
        fault = _("no optimizer state")
    return fault or checkpoints.state_problem(checkpoint)


def claim(folder: Path) -> None:
    """Make sure that a folder named by the user exists and contains no run yet. Raises UserError if it is in use."""
    if folder.is_dir():
        older = [
            path.name for path in folder.iterdir() if re.match(r"checkpoint-|run\.json$|logging\.jsonl$", path.name)
        ]
        if older:
            raise UserError(
                _("{folder}: holds an older run ({older}); name a new folder, or none: every run gets its own").format(
                    folder=folder, older=min(older)
                )
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            _("{folder}: cannot be made ({strerror}); name another folder").format(
                folder=folder, strerror=error.strerror
            )
        ) from error


def versions() -> dict[str, str]:
    """The versions that a run depends on, without importing the packages."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if revision := os.environ.get("MIRROR_REVISION"):
        found["mirror"] = revision
    return found


def write(folder: Path, record: dict[str, Any]) -> None:
    """Write run.json by rename, so that a reader never sees half of it. Raises UserError (exit code 1) on failure."""
    draft = folder / f".run.json.{os.getpid()}"
    try:
        with draft.open("w", encoding="utf-8") as file:
            json.dump(record, file, ensure_ascii=False, indent=2)
            file.write("\n")
        os.replace(draft, folder / "run.json")
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise UserError(
            _("{folder}/run.json: cannot be written ({strerror}); free some room, or name another OUTPUT_DIR").format(
                folder=folder, strerror=error.strerror
            ),
            FAILED,
        ) from None


def progress(folder: Path) -> dict[str, Any]:
    """Figures from logging.jsonl: steps, first_loss, final_loss (of logged steps), mean_loss, peak_gib, if known."""
    found: dict[str, Any] = {}
    try:
        lines = (folder / "logging.jsonl").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return found
    for line in lines:
        try:
            row = json.loads(line)
            steps = int(str(row.get("global_step/max_steps", "0/0")).split("/")[0])
            if steps:
                found["steps"] = max(steps, found.get("steps", 0))
            if "loss" in row:
                loss = float(row["loss"])
                found.setdefault("first_loss", loss)
                found["final_loss"] = loss
            if "train_loss" in row:
                found["mean_loss"] = float(row["train_loss"])
            if "memory(GiB)" in row:
                found["peak_gib"] = max(float(row["memory(GiB)"]), found.get("peak_gib", 0.0))
        except (ValueError, TypeError, AttributeError):
            continue  # a line truncated by a kill
    return found
