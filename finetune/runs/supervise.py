"""The program that a job runs: its process group, signals, terminal, log and exit code; for runs/gpu_lock.py."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from common.i18n import _

if TYPE_CHECKING:
    from finetune.runs.gpu_lock import Job

POLL_S = 1.0  # interval at which logging.jsonl is checked for a new step
SAME_SIGNAL_S = 0.5  # a signal this soon after the first is the same one, sent to a process and to its group
GROUP_WAIT_S = 30.0  # after a signal: how long to wait for processes that outlive the program

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
DEADLY = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT)


def supervise(
    current: Job, name: str, command: list[str], watch: list[Path], signals: set[signal.Signals], terminal: Terminal
) -> int:
    """Start the program as job `current`, pass on `signals`, follow its log; returns its exit code, as gpu_lock.run."""
    log = _Log(watch)
    if current.lock is not None:
        os.set_inheritable(current.lock, True)  # if this process is killed, the program still holds the lock
    try:
        pid = os.posix_spawnp(
            command[0],
            command,
            os.environ,
            setpgroup=0,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores them; the program should not
        )
    except OSError as error:
        print(
            _("error: {command} cannot be run: {strerror}").format(command=command[0], strerror=error.strerror),
            file=sys.stderr,
        )
        return 127 if isinstance(error, FileNotFoundError) else 126
    current.record["group"] = pid
    current.phase("starting")
    terminal.give(pid)
    stopped_by = None
    stopped_at = 0.0
    while True:
        info = signal.sigtimedwait(signals, POLL_S)
        if info is not None and info.si_signo != signal.SIGCHLD:
            number = signal.Signals(info.si_signo)
            if number in STOPPING and stopped_by is None:
                stopped_by, stopped_at = number, time.monotonic()
                print(
                    _("note: {name} passed on to {signal}; waiting for it to end, a second one ends it at once").format(
                        name=number.name, signal=name
                    ),
                    file=sys.stderr,
                    flush=True,
                )
            elif number in STOPPING and time.monotonic() - stopped_at > SAME_SIGNAL_S:
                number = _end_at_once(name)
            _signal_group(pid, number)
            if number == signal.SIGTSTP:  # without the keyboard: Ctrl-Z stops both, `fg` resumes both
                terminal.suspend(pid, number)
        done, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if done and os.WIFSTOPPED(status):
            terminal.suspend(pid, os.WSTOPSIG(status))
        elif done:
            break
        if progress := log.progress():
            current.step(*progress)
    if stopped_by is not None:
        _wait_for_group(pid, name, signals, stopped_at)
    terminal.take()
    return _ended(current, name, os.waitstatus_to_exitcode(status), stopped_by)


def _ended(current: Job, name: str, code: int, stopped_by: signal.Signals | None) -> int:
    if stopped_by is not None:
        return 128 + stopped_by
    for number in DEADLY:
        # -n: it died of the signal. Wrappers (a shell, Python) report their child's as 128 + n or 256 - n.
        if code in (-number, 128 + number, 256 - number):
            current.killed(number.name)
            step = current.record.get("step")
            where = (
                _(" at step {step}/{total}").format(step=step, total=current.record.get("total") or "?")
                if step is not None
                else ""
            )
            why = _("; mostly the memory limit (docker run --memory)") if number == signal.SIGKILL else ""
            print(
                _("error: job {name} was killed by {signal}{where}{why}; saved checkpoints are kept").format(
                    name=name, signal=number.name, where=where, why=why
                ),
                file=sys.stderr,
            )
            return 128 + number
    return code if code >= 0 else 128 - code


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _end_at_once(name: str) -> signal.Signals:
    """The signal that certainly ends the program, and the line that says so."""
    print(_("note: {name} is ended at once; saved checkpoints are kept").format(name=name), file=sys.stderr, flush=True)
    return signal.SIGKILL


def _wait_for_group(group: int, name: str, signals: set[signal.Signals], stopped_at: float) -> None:
    until = time.monotonic() + GROUP_WAIT_S
    while _group_lives(group) and time.monotonic() < until:
        info = signal.sigtimedwait(signals, 0.1)
        if info is not None and info.si_signo in STOPPING and time.monotonic() - stopped_at > SAME_SIGNAL_S:
            _signal_group(group, _end_at_once(name))


def _group_lives(group: int) -> bool:
    """Whether a process of the group is running. Zombies do not count: without an init, orphans are never reaped."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_bytes().rsplit(b")", 1)[1].split()
        except (OSError, IndexError):
            continue
        if int(fields[2]) == group and fields[0] not in (b"Z", b"X"):
            return True
    return False


class Terminal:
    """Hands the terminal, if there is one, to the child's process group and takes it back, as a shell does."""

    def __init__(self, keyboard: bool = True) -> None:
        self.fd = 0
        try:
            self.ours = keyboard and os.isatty(self.fd) and os.tcgetpgrp(self.fd) == os.getpgrp()
        except OSError:
            self.ours = False
        if self.ours:
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # otherwise taking it back from the background would stop us

    def give(self, group: int) -> None:
        """Give the keyboard and Ctrl-C to the child."""
        if self.ours:
            with contextlib.suppress(OSError):
                os.tcsetpgrp(self.fd, group)

    def take(self) -> None:
        """Take the terminal back."""
        self.give(os.getpgrp())

    def suspend(self, group: int, number: int) -> None:
        """The child stopped: by Ctrl-Z, so we stop too, until `fg`; or because it read before it had the terminal."""
        if number not in (signal.SIGTTIN, signal.SIGTTOU):
            self.take()
            blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTSTP])
            os.kill(0, signal.SIGTSTP)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        self.give(group)
        _signal_group(group, signal.SIGCONT)


class _Log:
    """Follows the logging.jsonl that a run below the watched folders writes from now on, independent of the clock."""

    def __init__(self, folders: list[Path]) -> None:
        self.folders = folders
        self.before = self._sizes()
        self.seen: tuple[int, int] | None = None

    def progress(self) -> tuple[int, int] | None:
        """(step, total) if the log has a new one."""
        found = self._newest()
        last = _last_step(found) if found else None
        if last is None or last == self.seen:
            return None
        self.seen = last
        return last

    def _newest(self) -> Path | None:
        """The log whose size has changed; of several, the one written last."""
        found = [(times, path) for path, times in self._sizes().items() if self.before.get(path) != times]
        return max(found, key=lambda each: each[0][1], default=(None, None))[1]

    def _sizes(self) -> dict[Path, tuple[int, int]]:
        """Size and time of every log: the time alone is not enough, since a clock may be set back."""
        found = {}
        for folder in self.folders:
            for pattern in ("logging.jsonl", "*/logging.jsonl"):
                for path in folder.glob(pattern):
                    with contextlib.suppress(OSError):
                        info = path.stat()
                        found[path] = (info.st_size, info.st_mtime_ns)
        return found


def _last_step(path: Path) -> tuple[int, int] | None:
    """The last `"global_step/max_steps": "5/40"` of an ms-swift log; a half-written line is skipped."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - (1 << 16)))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            step, total = json.loads(line)["global_step/max_steps"].split("/")
            return int(step), int(total)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return None
