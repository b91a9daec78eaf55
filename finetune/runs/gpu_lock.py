"""One GPU job at a time, and its progress: the lock and the heartbeat that `healthcheck probe` reads.

In a Python program:          with job("verify", total=110) as current: current.step(7)
Around any other program:     python -m finetune.runs.gpu_lock run --name sft [--wait] -- swift sft ...

Two files in the run folder. `job.lock` is held with flock as long as the job, or the program it runs, lives; the kernel
releases it however that ends. `job.json` records the job, its step and its last heartbeat. It is removed at the end; a
record that names a dead process reveals a killed job.

A heartbeat is progress: a step, or a new phase. The existence of a process proves nothing, since a hung CUDA call looks
busy. Hence the limits: LIMIT_START_S until the first step (loading, tokenizing), then ten times the longest step seen,
at least LIMIT_STEP_S. MIRROR_STALE_S sets one limit for both; 0 sets none (a chat waits for its user).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from common import lock_file, state
from common.errors import FAILED, Parser, UserError, run_main
from common.i18n import _
from finetune.runs.supervise import FORWARDED, Terminal, supervise

LIMIT_START_S = 1800.0
LIMIT_STEP_S = 600.0
WRITE_EVERY_S = 0.5  # minimum interval between writes of job.json, so that steps of 60 ms are not slowed
CHECKS = "healthcheck startup"  # always waited for
PARENT = "MIRROR_JOB"  # in the environment of a job's own processes: they join it instead of waiting for it


class Job:
    """A running job's record, created by `job`. Reports cost microseconds and never raise: they must not end a run."""

    def __init__(self, path: str | None, record: dict, limit_s: float | None, owner: bool) -> None:
        self.path, self.record, self.limit_s, self.owner = path, record, limit_s, owner
        self.written = self.last = state.now()
        self.longest = 0.0
        self.lock: int | None = None

    def step(self, step: int, total: int | None = None) -> None:
        """Report that `step` (of `total`) is done: a heartbeat."""
        now = state.now()
        if "step" in self.record:
            self.longest = max(self.longest, now - self.last)
        self.last = now
        total = self.record.get("total") if total is None else total
        self._sign(now - self.written >= WRITE_EVERY_S, step=int(step), total=total, phase=None)

    def phase(self, text: str) -> None:
        """Report work outside of steps (loading, saving): a heartbeat, written at once."""
        self._sign(True, phase=text)

    def killed(self, by: str) -> None:
        """Leave the record behind, as for a killed job, for the probe."""
        self.record["killed"] = by
        self._write()

    def forget(self) -> None:
        """Remove the record; otherwise the probe would report a killed job."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            self.path = None

    def _sign(self, write: bool, **values: object) -> None:
        if "step" in values and "step" not in self.record:
            write = True
        self.record.update(values)
        self.record["beat"] = state.now()
        self.record["stale_s"] = self.limit()
        if write:
            self._write()

    def limit(self) -> float:
        """Seconds without a heartbeat after which the probe calls the job stuck; 0 for never."""
        if self.limit_s is not None:
            return self.limit_s
        return max(LIMIT_STEP_S, 10 * self.longest) if "step" in self.record else LIMIT_START_S

    def _write(self) -> None:
        self.written = state.now()
        if self.path is None:
            return
        try:
            if not self.owner:  # the record keeps the parent's process and name
                parent = state.read(self.path)
                kept = ("step", "total", "phase", "beat", "stale_s")
                state.write(self.path, parent | {key: self.record[key] for key in kept if key in self.record})
            else:
                state.write(self.path, self.record)
        except (OSError, state.UnreadableState) as error:
            print(
                _("note: {path} cannot be written ({reason}); the probe will not see this job").format(
                    path=self.path, reason=error
                ),
                file=sys.stderr,
            )
            self.path = None


def waits(asked: bool | None) -> bool:
    """Whether to wait while another job holds the GPU: as requested, else as MIRROR_WAIT says."""
    return os.environ.get("MIRROR_WAIT", "") not in ("", "0") if asked is None else asked


@contextlib.contextmanager
def job(name: str, total: int | None = None, wait: bool | None = None, stale_s: float | None = None) -> Iterator[Job]:
    """Hold the GPU as job `name`. If another job holds it: wait (`wait`, or MIRROR_WAIT=1), else UserError, exit 1.

    Inside a job's own child process it joins that job: steps reported here count as the job's. `stale_s` replaces the
    limits (0: none). If no run folder is writable, the job runs without record and lock, and says so.
    """
    limit = _limit_from_env() if stale_s is None else stale_s
    parent = _parent()
    if parent is not None:
        current = Job(parent, {"total": total}, limit, owner=False)
        yield current
        current.path = None  # the record is the parent's, which may be gone and replaced by another job's
        return
    try:
        folder = state.run_dir()
    except OSError as error:
        print(_("note: job {name} runs without a lock: {reason}").format(name=name, reason=error), file=sys.stderr)
        yield Job(None, {}, limit, owner=True)
        return
    wait = waits(wait)
    lock = _lock(folder, name, wait)
    writer = state.this_process()
    record = {
        "schema": 1,
        "container_start": state.container_start(),
        "writer": writer,
        "name": name,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "total": total,
    }
    current = Job(f"{folder}/{state.JOB_FILE}", record, limit, owner=True)
    current.lock = lock
    current.phase("starting")
    before = os.environ.get(PARENT)
    os.environ[PARENT] = f"{writer['pid']}:{writer['start']}:{folder}"
    try:
        yield current
    finally:
        if before is None:
            os.environ.pop(PARENT, None)
        else:
            os.environ[PARENT] = before
        if "killed" not in record:
            current.forget()
        os.close(lock)


def _parent() -> str | None:
    """The job.json of the job that this process belongs to, if the job is still running."""
    pid, _other, rest = os.environ.get(PARENT, "").partition(":")
    start, _other, folder = rest.partition(":")
    if not (pid.isdigit() and start.isdigit()):
        return None
    return f"{folder}/{state.JOB_FILE}" if state.alive({"pid": int(pid), "start": int(start)}) else None


def _limit_from_env() -> float | None:
    text = os.environ.get("MIRROR_STALE_S", "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(
            _("MIRROR_STALE_S={text}: not a number of seconds; set 900, or 0 for no limit").format(text=text)
        )
    return value


def _lock(folder: str, name: str, wait: bool) -> int:
    """The descriptor that holds job.lock."""
    descriptor = lock_file.opened(folder)
    told = False
    while not lock_file.taken(descriptor):
        holder = _holder(folder)
        if not wait and holder != CHECKS:
            os.close(descriptor)
            raise UserError(
                _(
                    "{name} was not started: {holder} holds the GPU; wait for its end with --wait or "
                    "MIRROR_WAIT=1, or end it first"
                ).format(name=name, holder=holder),
                FAILED,
            )
        if not told:
            print(
                _("{name} waits for {holder} to end; Ctrl-C gives up").format(name=name, holder=holder),
                file=sys.stderr,
                flush=True,
            )
            told = True
        time.sleep(0.3)
    return descriptor


def _holder(folder: str) -> str:
    try:
        record = state.read(f"{folder}/{state.JOB_FILE}")
    except (FileNotFoundError, state.UnreadableState):
        return CHECKS if _checks_run() else _("another job")
    text = _("job {name} (pid {pid}").format(name=record.get("name"), pid=record.get("writer", {}).get("pid"))
    if isinstance(record.get("step"), int):
        text += _(", step {step}/{total}").format(step=record["step"], total=record.get("total") or "?")
    if not state.alive(record.get("writer")):
        group = record.get("group")
        text += _("; it was killed, but processes of it still run, kill -TERM -{group} ends them").format(group=group)
    return text + ")"


def _checks_run() -> bool:
    """Whether the start-up checks are running: they hold the lock for the seconds in which they use the GPU."""
    with contextlib.suppress(state.UnreadableState):
        health = state.load(state.HEALTH_FILE)
        return health is not None and health.get("state") == state.State.STARTING and state.alive(health.get("writer"))
    return False


# ---- around another program ----


def run(
    name: str, command: list[str], wait: bool, watch: list[Path], stale_s: float | None, keyboard: bool = True
) -> int:
    """Run a program as job `name`: its exit code, or 128 + n after signal n.

    The program gets its own process group, and with it the terminal (`keyboard`; without it, Ctrl-C and Ctrl-Z come
    here). Signals to this process are passed on to that group. Then the end of the group is awaited, since a trainer
    saves its checkpoint after a wrapper around it has died. A second stop signal kills the group: a hung CUDA call
    responds to nothing else.
    After SIGTERM the exit code is 143 even if the trainer saved its checkpoint and exited with 0.
    """
    with job(name, wait=wait or None, stale_s=stale_s) as current:
        signals = {signal.SIGCHLD, *FORWARDED, *(() if keyboard else (signal.SIGTSTP,))}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            return supervise(current, name, command, watch, signals, Terminal(keyboard))
        finally:
            # One Ctrl-C too many must not end the caller before it has recorded how the job ended.
            while signal.sigtimedwait(signals, 0) is not None:
                pass
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def main(arguments: list[str] | None = None) -> int:
    """The command line: `run --name NAME [--wait] [--watch DIR] [--stale-s S] -- COMMAND...`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    own, command = arguments, []
    if "--" in arguments:
        cut = arguments.index("--")
        own, command = arguments[:cut], arguments[cut + 1 :]
    parser = Parser(
        prog="python -m finetune.runs.gpu_lock", description=_("Run a program as the one job that holds the GPU.")
    )
    verb = parser.add_subparsers(dest="verb", required=True).add_parser("run", formatter_class=argparse.HelpFormatter)
    verb.add_argument("--name", required=True, help=_("how the probe calls it"))
    verb.add_argument("--wait", action="store_true", help=_("wait while another job holds the GPU (or MIRROR_WAIT=1)"))
    verb.add_argument(
        "--watch", type=Path, action="append", help=_("folder of its runs' logging.jsonl (default: $OUTPUT_DIR)")
    )
    verb.add_argument(
        "--stale-s", type=float, help=_("seconds without a new step after which it counts as stuck; 0: never")
    )
    options = parser.parse_args(own)
    if not command:
        raise UserError(_("no program given: python -m finetune.runs.gpu_lock run --name NAME -- PROGRAM ARGUMENT..."))
    watch = options.watch or [Path(os.environ.get("OUTPUT_DIR") or "/root/output")]
    return run(options.name, command, options.wait, watch, options.stale_s)


if __name__ == "__main__":
    sys.exit(run_main(main))
