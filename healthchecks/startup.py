"""Runs the start-up checks in order and keeps health.json up to date; called by `healthcheck startup` (cli.py)."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from common import state
from common.errors import save_traceback
from common.i18n import _
from common.model_kind import STANDIN
from common.state import State
from healthchecks.context import Context, Failure, Outcome

SCHEMA = 1
LEVELS = ("full", "fast", "off")
ORDER = ("driver", "storage", "weights", "tokenizer", "packages", "vram-free", "forward", "vram-ceiling")
FULL_ONLY = ("forward", "vram-ceiling")  # checks that the level fast leaves out
ON_GPU = ("vram-free", "forward", "vram-ceiling")  # checks that must not run next to a job
# The checks that must not have failed before a check makes sense.
NEEDS = {
    "vram-free": ("driver",),
    "forward": ("driver", "weights", "vram-free"),
    "vram-ceiling": ("forward",),
}


@dataclass
class CheckRow:
    """One check's result, as in health.json."""

    name: str
    status: str  # pass, warn, skip or fail
    code: str
    seconds: float
    figure: str
    cause: str | None = None
    remedy: str | None = None


@dataclass
class Report:
    """A run of the checks, as in health.json (docs/health.schema.json)."""

    level: str
    state: str = State.STARTING  # then ready or failed
    started: str = ""
    seconds: float = 0.0
    running: list[str] = field(default_factory=list)
    checks: list[CheckRow] = field(default_factory=list)
    device: str = ""
    standin: bool = False
    model_kind: str = "other"

    def as_dict(self) -> dict[str, Any]:
        """The object for health.json."""
        return {
            "schema": SCHEMA,
            "container_start": state.container_start(),
            "writer": state.this_process(),
            **asdict(self),
        }


Listener = Callable[[Report], None]


Check = Callable[[Context], Outcome]


def checks_of(level: str) -> dict[str, Check]:
    """{name: check} of a level, in order; a check's module in healthchecks/checks has its name."""
    left_out = {"full": (), "fast": FULL_ONLY, "off": ORDER}[level]
    names = [name for name in ORDER if name not in left_out]
    return {name: importlib.import_module(f"healthchecks.checks.{name.replace('-', '_')}").check for name in names}


def run(
    context: Context,
    level: str,
    listener: Listener,
    busy: str | None = None,
    hold_gpu: Callable[[], contextlib.AbstractContextManager[str | None]] = contextlib.nullcontext,
) -> Report:
    """Run the checks; `listener(report)` is called before the first check and after every change.

    `busy` names a job that holds the GPU: checks that would take memory next to it are skipped. `hold_gpu` is entered
    before the first check that uses the GPU, so that no job starts next to it; it yields the name of a job that has
    started since. No check raises: an unexpected exception becomes the failure `internal`; a file has the traceback.
    """
    begin = time.monotonic()
    started, kind = datetime.now(timezone.utc).isoformat(timespec="seconds"), context.kind
    report = Report(level, started=started, standin=kind is STANDIN, model_kind=kind.name)
    checks = checks_of(level)
    if level == "full" and not busy:
        context.torch = _import_torch_meanwhile()
    failed: set[str] = set()
    is_held = False
    with contextlib.ExitStack() as held:
        for name, check in checks.items():
            if name in ON_GPU and not busy and not is_held:
                busy, is_held = held.enter_context(hold_gpu()), True
            report.running = [name]
            report.seconds = round(time.monotonic() - begin, 3)
            listener(report)
            row = _run_one(name, check, context, failed, busy)
            report.checks.append(row)
            if row.status == "fail" or row.code == "not-run":
                failed.add(row.name)
        report.running = []
        report.device = context.gpu.name if context.gpu else "cpu"
        report.state = State.FAILED if any(row.status == "fail" for row in report.checks) else State.READY
        report.seconds = round(time.monotonic() - begin, 3)
        listener(report)
    return report


def forward_alone(context: Context) -> CheckRow:
    """Run check 7 alone, after a run at level fast, and add its row to health.json; called by `finetune`.

    With `context.model`, it checks the model that the caller goes on to use.
    """
    from healthchecks.checks import driver, forward, weights

    row = _run_one("driver", driver.check, context, set(), None)
    if row.status != "fail":
        context.sums_match = weights.recorded_official(context)  # level fast has checked the files themselves
        row = _run_one("forward", forward.check, context, set(), None)
    try:
        health = state.load(state.HEALTH_FILE)
        if health is not None:
            kept = [check for check in health["checks"] if check["name"] != row.name]
            health |= {"checks": [*kept, asdict(row)]}
            health |= {"state": "failed"} if row.status == "fail" else {}
            state.write(f"{state.run_dir()}/{state.HEALTH_FILE}", health)
    except (OSError, KeyError, TypeError, state.UnreadableState):
        pass  # the checks never ran, or another user ran them: the row is on the screen anyway
    return row


def _run_one(name: str, check: Check, context: Context, failed: set[str], busy: str | None) -> CheckRow:
    blockers = [needed for needed in NEEDS.get(name, ()) if needed in failed]
    if blockers:
        return CheckRow(
            name, "skip", "not-run", 0.0, _("not run, because {names} did not pass").format(names=", ".join(blockers))
        )
    if busy and name in ON_GPU:
        return CheckRow(name, "skip", "busy", 0.0, _("not run, because job {busy} uses the GPU").format(busy=busy))
    begin = time.monotonic()
    try:
        found = check(context)
    except Failure as failure:
        found = Outcome("", "fail", failure.code, failure.cause, failure.remedy)
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        remedy = _("please report it ({save_traceback}); HEALTH_LEVEL=off starts without the checks").format(
            save_traceback=save_traceback()
        )
        found = Outcome("", "fail", "internal", _("the check itself failed: {words}").format(words=words), remedy)
    return CheckRow(name, seconds=round(time.monotonic() - begin, 3), **vars(found))


def _import_torch_meanwhile() -> Callable[[], Any]:
    """Start importing torch (3 to 5 s) in a thread while the cheap checks run; the returned function waits for it.

    An exception of the import is raised when the module is requested.
    """

    def work() -> Any:
        import torch

        import qwen2.model  # noqa: F401 - so that `forward` finds it imported

        return torch

    return ThreadPoolExecutor(1).submit(work).result
