"""Prevents jobs and checks from using the GPU at the same time: such checks hold the jobs' lock; used by cli.py."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from common import lock_file, state

WAIT_S = 120.0  # for another run of the checks, which may read 15 GB from a cold disk; jobs are not waited for


@contextlib.contextmanager
def gpu() -> Iterator[str | None]:
    """Hold the GPU. Returns None, or the name of the job that has it.

    If no lock can be created, nothing is held and None is returned: jobs then run without a lock, too.
    """
    try:
        descriptor = lock_file.opened(state.run_dir())
    except OSError:
        yield None
        return
    try:
        until = time.monotonic() + WAIT_S
        holder = None
        while holder is None and not lock_file.taken(descriptor):
            holder = job_name() or ("of another process" if time.monotonic() > until else None)
            time.sleep(0.05)
        yield holder
    finally:
        os.close(descriptor)


def job_name(running: bool = False) -> str | None:
    """The job in job.json; None if there is none. Its program may have outlived it, unless it must be `running`."""
    with contextlib.suppress(state.UnreadableState):
        job = state.load(state.JOB_FILE)
        if job and not (running and (job.get("killed") or not state.alive(job.get("writer")))):
            return str(job.get("name"))
    return None


def forget_dead_job() -> None:
    """Remove the record of a job that was killed.

    Only while holding the lock, so that a job that is just starting does not lose its record.
    """
    for folder in state.candidates():
        try:
            descriptor = lock_file.opened(folder)
        except OSError:
            continue
        try:
            if lock_file.taken(descriptor):  # otherwise a job runs, or the program of a killed job
                with contextlib.suppress(OSError):
                    os.unlink(f"{folder}/{state.JOB_FILE}")
        finally:
            os.close(descriptor)
