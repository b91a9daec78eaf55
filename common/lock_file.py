"""The lock that says who uses the GPU: held by a job (finetune/runs/gpu_lock.py) and by checks that touch the GPU.

It is flock on a file of the run folder, so that the kernel releases it whatever happens to its holder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from common import state


def opened(folder: str) -> int:
    """A descriptor of the lock file in a run folder; closing it releases the lock.

    Raises OSError if it cannot be made.
    """
    path = f"{folder}/{state.LOCK_FILE}"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.suppress(OSError):
            os.chmod(path, 0o666)  # past the umask: root and --user share the lock
        return descriptor
    except PermissionError:
        return os.open(path, os.O_RDONLY)  # another user's; flock needs no right to write


def taken(descriptor: int) -> bool:
    """Take the lock; False while another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True
