"""A folder held by flock, across processes and containers; for runs and merge."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(folder: Path, inherited: bool = False) -> Iterator[bool | None]:
    """Hold a folder: True; False where another holds it; None where the file system has no locks.

    Nothing is left behind: the kernel releases it whatever happens. `inherited`: what is started meanwhile holds it,
    too. Raises OSError if the folder cannot be opened.
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
