"""Files in the run folder and their writers, for the probe, the start-up checks and the GPU lock; stdlib only.

Two files record a container's state. `health.json` is written by `healthcheck startup`, `job.json` by
finetune/runs/gpu_lock.py.
Both name the container start they belong to, so a file kept by `docker restart` or a volume is recognised as old.
"""

from __future__ import annotations

import json
import os
import time
from enum import Enum

HEALTH_FILE = "health.json"
JOB_FILE = "job.json"
LOCK_FILE = "job.lock"
DEFAULT_RUN_DIR = "/run/mirror"
FALLBACK_RUN_DIR = "/tmp/mirror"  # used if /run/mirror is not writable: --read-only with --tmpfs /tmp


class State(str, Enum):
    """The state of a container, as in health.json and in the output of `healthcheck probe`."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"  # a job runs: read from job.json, never written to health.json
    FAILED = "failed"

    __str__ = str.__str__  # the value, in every version of Python


class UnreadableState(Exception):
    """A state file exists but cannot be used; the message says why."""


def candidates() -> list[str]:
    """The run folders in the order of preference (the same as in entrypoint/start.d/20-run-dir.sh)."""
    first = os.environ.get("MIRROR_RUN_DIR") or DEFAULT_RUN_DIR
    return [first] if first == FALLBACK_RUN_DIR else [first, FALLBACK_RUN_DIR]


def run_dir() -> str:
    """The first writable run folder, created if needed. Raises OSError if there is none."""
    for folder in candidates():
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise OSError(f"none of {', '.join(candidates())} can be written; add --tmpfs /run/mirror:mode=1777 to docker run")


def load(name: str) -> dict | None:
    """The state file of that name from this start of the container; None if there is none.

    Raises UnreadableState if the file is damaged: its owner is then unknown.
    """
    for folder in candidates():
        try:
            value = read(f"{folder}/{name}")
        except FileNotFoundError:
            continue
        if value.get("container_start") == container_start():
            return value
    return None


def read(path: str) -> dict:
    """The object in a state file.

    Raises FileNotFoundError if it is missing, UnreadableState if it is not a complete JSON object.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(1 << 20)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise UnreadableState(f"{path} cannot be read ({error.strerror})") from error
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UnreadableState(f"{path} is not whole JSON ({len(data)} bytes)") from error
    if not isinstance(value, dict):
        raise UnreadableState(f"{path} holds no JSON object")
    return value


def write(path: str, value: dict) -> None:
    """Replace a state file atomically: a reader sees the old one or the new one.

    No fsync: after a machine crash the file belongs to another boot and is ignored anyway.
    """
    draft = f"{path}.{os.getpid()}"
    with open(draft, "w", encoding="ascii") as file:
        json.dump(value, file)
    os.replace(draft, path)


def process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it is gone or a zombie.

    Field 22 of /proc/PID/stat (man 5 proc). The pid alone may have been reused since.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field is the program's name in brackets and may contain spaces and brackets.
            fields = file.read().rsplit(b")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def alive(writer: object) -> bool:
    """Whether the process of a `{"pid", "start"}` record is still running."""
    if not isinstance(writer, dict):
        return False
    pid, start = writer.get("pid"), writer.get("start")
    return isinstance(pid, int) and isinstance(start, int) and process_start(pid) == start


def this_process() -> dict:
    """The record by which `alive` recognises this process."""
    return {"pid": os.getpid(), "start": process_start(os.getpid())}


def container_start() -> str:
    """Identifies this container start: the kernel's boot id and the start time of the first process."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
    except OSError:
        boot = "unknown"
    return f"{boot}/{process_start(1)}"


def now() -> float:
    """Seconds on a clock that all processes share and nobody can set back (time.monotonic)."""
    return time.monotonic()
