"""A folder held by flock, across processes and containers; for runs and merge."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(folder: Path, inherited: bool = False) -> Iterator[bool | None]:
    """Lock a folder: True if it is now held, False if another process holds it, None if the file system has no locks.

    Leaves nothing behind: the kernel releases the lock however the process ends. With `inherited`, child processes
    started meanwhile hold it, too. Raises OSError if the folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(descriptor, inherited)
    had: bool | None = True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            had = False
        except OSError:
            had = None
        yield had
    finally:
        os.close(descriptor)
