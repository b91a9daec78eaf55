"""Check 2: results can be written, there is enough disk space, and /dev/shm is large enough for data-loader workers."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from common.i18n import _
from healthchecks.context import GIB, Context, Failure, Outcome, gib

SHM_BYTES = 1 * GIB
# Two checkpoints of a rank-8 LoRA with optimizer state take 0.5 GiB; caches and logs take the rest.
DISK_BYTES = 2 * GIB


def check(context: Context) -> Outcome:
    """Outcome with the free space. Raises Failure: output-not-writable, disk-full or shm-small."""
    _try_to_write(context.output_dir)
    free = shutil.disk_usage(context.output_dir).free
    if free < DISK_BYTES:
        raise Failure(
            "disk-full",
            _("{output_dir} has {free} left; a run needs {needed} for checkpoints and logs").format(
                output_dir=context.output_dir, free=gib(free), needed=gib(DISK_BYTES)
            ),
            _("make room, or mount a larger disk there: docker run -v /data/output:/root/output ..."),
        )
    shm = _total(context.shm_dir)
    if shm < SHM_BYTES:
        raise Failure(
            "shm-small",
            _(
                "{shm_dir} has {shm} MiB in all (Docker's default is 64); data-loader workers and NCCL, "
                "which pass tensors through it, die with `Bus error` below 1 GiB"
            ).format(shm_dir=context.shm_dir, shm=shm // (1 << 20)),
            _(
                "docker run --shm-size 2g ... (compose: shm_size; Kubernetes: an emptyDir with medium: "
                "Memory at /dev/shm)"
            ),
        )
    return Outcome(
        _("{folder} writable, {free} free; {shm_dir} {shm}").format(
            folder=context.output_dir, free=gib(free), shm_dir=context.shm_dir, shm=gib(shm)
        )
    )


def _try_to_write(folder: Path) -> None:
    """Create the folder if needed, then write and sync a byte: mode bits do not reveal a read-only or full mount."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".healthcheck-") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        owner = ""
        with contextlib.suppress(OSError):
            owner = _(", owned by uid {st_uid}").format(st_uid=folder.stat().st_uid)
        raise Failure(
            "output-not-writable",
            _("uid {os} cannot write to {folder}{owner}: {strerror}").format(
                os=os.getuid(), folder=folder, owner=owner, strerror=error.strerror
            ),
            _("start as its owner: MIRROR_USER=$(id -u):$(id -g) docker compose run ...")
            if os.environ.get("MIRROR_VIA") == "compose"
            else _(
                "mount a folder of your own there: mkdir -p output && docker run --user $(id -u):$(id -g) -v "
                "./output:/root/output ... (without :ro)"
            ),
        ) from error


def _total(folder: Path) -> int:
    """Size in bytes of the file system at a folder; 0 if there is none."""
    try:
        info = os.statvfs(folder)
    except OSError:
        return 0
    return info.f_blocks * info.f_frsize
