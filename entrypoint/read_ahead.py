"""Reads what the job will need into the page cache, as soon as the container starts; started by entrypoint.sh.

    python -I -S read_ahead.py [FILE_OR_FOLDER...]

First what imports will read (LIST is created when the image is built), then the weights, in loading order, then what
the GPU will need. Data already in memory costs only a look-up. It stops at the memory limit: what the machine has
available, or what the container's cgroup still allows, less RESERVE for the job. Uses only the standard library and
never prints anything: without it everything still works, only later.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

CHUNK = 16 << 20
STEP = 128 << 10  # on some disks, the kernel reads no more than this ahead per request
THREADS = 4  # a network disk needs several reads in flight; a local one is no slower with them
RESERVE = 5 << 30  # for the job itself: torch, pinned buffers, data, and some slack
LIST = Path(__file__).resolve().parent / "read_ahead.txt"  # lines `offset length path`; `-` stands for the weights
MEMINFO = "/proc/meminfo"
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def room() -> int:
    """Bytes that may be read: memory available to this container, less RESERVE; 0 if unknown."""
    try:
        lines = Path(MEMINFO).read_text().splitlines()
        left = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return 0
    for limit, used, stat in CGROUPS:
        try:
            allowed = int(Path(limit).read_text())  # ValueError for "max": no limit
            taken = int(Path(used).read_text())
            # Clean file pages count as used, and are dropped when memory is needed.
            counts = dict(line.split() for line in Path(stat).read_text().splitlines() if line)
            left = min(left, allowed - taken + int(counts.get("inactive_file", 0)))
        except (OSError, ValueError):
            continue
    return max(0, left - RESERVE)


Part = tuple[Path, int, int]  # of a file: offset, length


def wanted(named: Iterable[str]) -> Iterator[Part]:
    """What to read, in order: LIST up to its `-`; the named files, and a folder's *.safetensors; the rest of LIST."""
    lines = LIST.read_text(encoding="utf-8").splitlines() if LIST.is_file() else []
    middle = lines.index("-") if "-" in lines else len(lines)
    yield from map(parse, lines[:middle])
    for path in map(Path, named):
        for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
            if file.is_file():
                yield file, 0, file.stat().st_size
    yield from map(parse, lines[middle + 1 :])


def parse(line: str) -> Part:
    """Parse a line of LIST."""
    offset, length, path = line.split(maxsplit=2)
    return Path(path), int(offset), int(length)


def pieces(parts: Iterable[Part], budget: int) -> Iterator[Part]:
    """The same parts in chunks of at most CHUNK bytes, until the budget is spent."""
    for path, first, length in parts:
        for offset in range(first, first + length, CHUNK):
            size = min(CHUNK, first + length - offset)
            budget -= size
            if budget < 0:
                return
            yield path, offset, size


def read(todo: Iterator[Part], lock: threading.Lock) -> None:
    """Take chunks one by one and have the kernel read what is not in memory; what is there costs only a look-up."""
    while True:
        with lock:
            piece = next(todo, None)
        if piece is None:
            return
        path, offset, length = piece
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            for start in range(offset, offset + length, STEP):
                os.posix_fadvise(file, start, min(STEP, offset + length - start), os.POSIX_FADV_WILLNEED)
            os.pread(file, 1, offset + length - 1)  # wait for the last byte, so that the disk's queue stays short
        except OSError:
            pass
        finally:
            os.close(file)


def main() -> int:
    """Read everything; returns 0."""
    os.nice(5)
    todo, lock = pieces(wanted(sys.argv[1:]), room()), threading.Lock()
    threads = [threading.Thread(target=read, args=(todo, lock)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
