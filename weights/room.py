"""How much disk space a fetch needs, and whether it is free; called by weights/fetch.py before the download starts."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path


class NoRoomError(Exception):
    """The message says how much space is needed and how much is free."""


@dataclass(frozen=True)
class Need:
    """In bytes: still to download; all files together; the largest file; later copies (image layers) of all files."""

    download: int
    files: int
    largest: int
    copies: int


def bytes_text(count: float) -> str:
    """123456789 -> '123.5 MB' (decimal units, as disks are sold and as docker prints them)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def can_link(source: Path, target: Path) -> bool:
    """Whether source's files can be hard-linked into target: never between two mounts of a build stage."""
    probe, link = source / f".link-{os.getpid()}", target / f".link-{os.getpid()}"
    try:
        probe.touch()
        os.link(probe, link)
        return True
    except OSError:
        return False
    finally:
        for path in (probe, link):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def plan(cache: Path, to: Path, need: Need, linkable: bool) -> bool:
    """Whether the cache may keep its files (True) or must release each one once it is placed (False), to fit the disk.

    Raises NoRoomError if neither fits. Two mounts with the same total count as one disk: in a build, the stage's
    overlay and the cache mount have different device numbers and the same blocks.
    """
    cache_disk, to_disk = shutil.disk_usage(cache), shutil.disk_usage(to)
    placed = 0 if linkable else need.files
    if cache_disk.total == to_disk.total:
        keep = need.download + placed + need.copies
        move = need.download + max(need.copies, 0 if linkable else need.largest)
        if cache_disk.free >= keep:
            return True
        if cache_disk.free >= move:
            return False
        raise NoRoomError(_sentence(move, cache_disk.free, cache, need))
    if cache_disk.free < need.download:
        raise NoRoomError(_sentence(need.download, cache_disk.free, cache, Need(need.download, 0, 0, 0)))
    if to_disk.free < placed + need.copies:
        raise NoRoomError(_sentence(placed + need.copies, to_disk.free, to, Need(0, placed, 0, need.copies)))
    return True


def _sentence(needed: int, free: int, folder: Path, need: Need) -> str:
    parts = [
        f"{bytes_text(need.download)} to download" if need.download else "",
        f"{bytes_text(need.copies)} for the image's layers" if need.copies else "",
    ]
    why = " and ".join(part for part in parts if part)
    return (
        f"not enough disk space: {bytes_text(needed)} needed{f' ({why})' if why else ''}, {bytes_text(free)} free "
        f"on the disk of {folder}; free {bytes_text(needed - free)} more (docker system df shows what Docker holds, "
        "docker builder prune and docker image prune give some back) or move Docker's data to a larger disk"
    )
