"""The GPU lock: held by a job (finetune/runs/gpu_lock.py) and by checks that use the GPU.

It is an flock on a file in the run folder, so the kernel releases it however its holder ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from common import state


def opened(folder: str) -> int:
    """A descriptor of the lock file in a run folder; closing it releases the lock.

    Raises OSError if it cannot be created.
    """
    path = f"{folder}/{state.LOCK_FILE}"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.suppress(OSError):
            os.chmod(path, 0o666)  # despite the umask: root and --user share the lock
        return descriptor
    except PermissionError:
        return os.open(path, os.O_RDONLY)  # another user's file; flock needs no write permission


def taken(descriptor: int) -> bool:
    """Take the lock; False while another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True
