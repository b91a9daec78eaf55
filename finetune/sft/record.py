"""run.json of a run: its content before the first step, while the engine runs, and at the end."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from common import host, sha256sums
from common.errors import DONE, FAILED, UserError
from common.i18n import _
from common.model_kind import STANDIN
from finetune.engines.fast.train import Ended
from finetune.engines.swift import options
from finetune.engines.swift.arguments import Arguments
from finetune.runs import checkpoints, run_folder
from finetune.runs.supervise import STOPPING
from finetune.sft.description import SftRun, typed


def describe(run: SftRun, words: list[str]) -> dict[str, Any]:
    """run.json before the first step: everything needed to repeat the run."""
    settings = run.options()
    types = options.options_of("sft")
    for item in Arguments(words).given:  # includes what the ms-swift launcher changes
        settings[item.name] = typed(types.get(item.name), item.values)
    datasets = [
        {
            "name": source.spec,
            "path": str(source.path.resolve()) if source.path else None,
            "rows": report.rows if report else None,
            "sample": source.sample,
            "sha256": sha256sums.digest(source.path) if source.path else None,
        }
        for source, report in run.data
    ]
    return {
        "schema": 1,
        "name": run.name,
        "number": run_folder.next_number(run.folder),
        "engine": run.choice.engine,
        "engine_why": run.choice.why,
        "status": "running",
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": run.line(),
        "words": [*run.merged().words(), *run.columns_words()],
        **({"resumed": run.resumed} if run.resumed else {}),
        **({"epochs": run.epochs or {"asked_for": "auto"}} if run.epochs or run.auto else {}),
        "settings": settings,
        "datasets": datasets,
        "weights": {
            "path": str(run.model_dir),
            "standin": run.model_kind is STANDIN,
            "kind": run.model_kind.name,
            "sha256sums": weights_digest(run.model_dir),
        },
        "versions": run_folder.versions(),
    }


@contextlib.contextmanager
def record_of(run: SftRun, record: dict[str, Any]) -> Iterator[dict[str, Any] | None]:
    """run.json while the engine runs. Yields the previous content, which is restored if no step was made.

    That case is a UserError (another job holds the GPU, the weights cannot be loaded) or a stop signal while they load.
    """
    if run.is_helping:
        yield None
        return
    before = run_folder.load(run.folder) if run.checkpoint else None
    run_folder.write(run.folder, record)
    try:
        yield before
    except UserError:
        if before is None:
            (run.folder / "run.json").unlink()
        else:
            run_folder.write(run.folder, before)
        raise
    except SystemExit as end:
        run_folder.write(run.folder, before or record | {"status": "stopped", "exit_code": end.code})
        raise


def args_json(run: SftRun, record: dict[str, Any]) -> dict[str, Any]:
    """The options that `swift infer --adapters` and verify read from a checkpoint's args.json."""
    options = {name: value for name, value in record["settings"].items() if name != "output_dir"}
    return options | {
        "model": str(run.model_dir),
        "model_type": "qwen2",
        "task_type": "causal_lm",
        "tuner_type": "lora",
        "torch_dtype": "float32" if run.settings.wants_cpu else "bfloat16",
        "system": run.choice.system,
        "swift_version": record["versions"].get("ms-swift"),
        "output_dir": str(run.folder),
    }


def finish(run: SftRun, record: dict[str, Any], ended: Ended) -> int:
    """Record and report how the engine ended; nothing that follows can change it. Returns the exit code."""
    record["exit_code"] = ended.code
    record |= run_folder.progress(run.folder)
    checkpoints.seal(run.folder)
    adapter = (checkpoints.best(run.folder) if run.loads_best else None) or trained_adapter(run.folder)
    stopped = ended.code in (128 + number for number in STOPPING)
    record["status"] = "done" if ended.code == DONE and adapter else "stopped" if stopped else "failed"
    record["adapter"] = str(adapter.relative_to(run.folder)) if adapter else None
    try:
        run_folder.write(run.folder, record)
    except UserError as error:
        if record["status"] == "done":
            raise
        print(
            _("note: {reason}").format(reason=error), file=sys.stderr
        )  # the reason for the end comes below, and is often the same
    if record["status"] != "done":
        why = ended.why
        if stopped and not why:
            why = _("stopped by {name} at step {record}").format(
                name=signal.Signals(ended.code - 128).name, record=record.get("steps", 0)
            )
        why = why or _("it ended without a checkpoint, its last lines above say why")
        print(
            _("error: {name}: {why}; {kept}").format(name=run.name, why=why, kept=kept(adapter, run.auto)),
            file=sys.stderr,
        )
        return ended.code or FAILED
    assert adapter is not None
    if run.adapter_to:
        run.adapter_to.write_text(f"{adapter}\n", encoding="utf-8")
    print(summary(run.name, record, adapter), flush=True)
    return DONE


def end_at_once(run: SftRun, record: dict[str, Any], before: dict[str, Any] | None, number: int) -> str:
    """The record of a run that a second stop signal ends during a step, and the line that says what is kept.

    `before` is a resumed run's previous record; it is restored if no step was made.
    """
    adapter = trained_adapter(run.folder)
    now = record | run_folder.progress(run.folder) | {"status": "stopped", "exit_code": 128 + number}
    now["adapter"] = str(adapter.relative_to(run.folder)) if adapter else None
    if before is None or now["adapter"] != before.get("adapter"):
        run_folder.write(run.folder, now)
    else:
        run_folder.write(run.folder, before)
    return _("error: {name}: ended at once by a second {signal}; {kept}").format(
        name=run.name, signal=signal.Signals(number).name, kept=kept(adapter, run.auto)
    )


def kept(adapter: Path | None, auto: bool = False) -> str:
    """What remains of a run that did not finish, for the screen; `auto`: its number of epochs was not chosen yet."""
    if adapter is None:
        return _("no checkpoint was written")
    return _("the newest checkpoint is {adapter}{more}").format(
        adapter=host.shown(adapter), more="" if auto else _(", {resume} continues").format(resume=host.resume_call())
    )


def weights_digest(model_dir: Path) -> str | None:
    """The digest of the folder's SHA256SUMS, which covers all its files; hashing 15 GB would take a minute."""
    path = model_dir / "SHA256SUMS"
    return sha256sums.digest(path) if path.is_file() else None


def trained_adapter(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run."""
    try:
        return checkpoints.newest(folder)
    except UserError:
        return None


def summary(name: str, record: dict[str, Any], adapter: Path | None) -> str:
    """The run in one line."""
    parts = [_("{count} steps").format(count=record["steps"])] if "steps" in record else []
    parts.append(_("{minutes:.1f} min").format(minutes=record["seconds"] / 60))
    if "final_loss" in record:
        parts.append(
            _("loss {first_loss:.2f} -> {final_loss:.2f}").format(
                first_loss=record["first_loss"], final_loss=record["final_loss"]
            )
        )
    if "peak_gib" in record:
        parts.append(_("peak {peak_gib:.1f} GiB").format(peak_gib=record["peak_gib"]))
    return _("{name}: {names}; adapter {adapter}").format(
        name=name, names=_(", ").join(parts), adapter=host.shown(adapter)
    )
