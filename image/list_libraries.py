"""Records what a job's imports read, inside `docker build`, for entrypoint/read_ahead.py.

    python list_libraries.py OUT

torch maps 5 GB of libraries, and its import touches a tenth of them: thousands of small, sequential reads on a cold
disk. Read ahead, they are a few large ones. OUT has a line `offset length path` for each run of touched blocks and for
each Python module, then a line `-`, then the libraries whose other parts a GPU will need later. Blocks are BLOCK bytes
long, so that two builds write the same list.
"""

from __future__ import annotations

import importlib
import mmap
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

BLOCK = 4 << 20
PRESENT = 1 << 63  # bit in an entry of /proc/self/pagemap, https://docs.kernel.org/admin-guide/mm/pagemap.html
FIRST = ("torch", "qwen2.training.loop", "qwen2.generate")  # before a kernel runs
AFTER = ("sacrebleu.metrics", "jinja2", "matplotlib.pyplot", "rich.console")  # by the end of the run
# kernels are loaded as needed
ON_A_GPU = ("libtorch_cuda.so", "libcublasLt.so.12", "libcublas.so.12", "libtriton.so")


def touched() -> dict[Path, set[int]]:
    """Numbers of the blocks of each mapped file in which this process has a page; files under a block are left out."""
    found: dict[Path, set[int]] = {}
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for line in Path("/proc/self/maps").read_text().splitlines():
            fields = line.split(maxsplit=5)
            path = Path(fields[5]) if len(fields) == 6 else Path()
            if not path.is_absolute() or not path.is_file() or path.stat().st_size < BLOCK:
                continue
            begin, end = (int(text, 16) for text in fields[0].split("-"))
            pages = (end - begin) // mmap.PAGESIZE
            pagemap.seek(begin // mmap.PAGESIZE * 8)
            entries = struct.unpack(f"<{pages}Q", pagemap.read(pages * 8))
            first = int(fields[2], 16)
            blocks = {(first + n * mmap.PAGESIZE) // BLOCK for n, entry in enumerate(entries) if entry & PRESENT}
            found.setdefault(path, set()).update(blocks)
    return found


def runs(blocks: set[int]) -> Iterator[tuple[int, int]]:
    """(first, end) of each run of consecutive numbers."""
    for first in sorted(number for number in blocks if number - 1 not in blocks):
        end = first
        while end in blocks:
            end += 1
        yield first, end


def modules() -> list[Path]:
    """The files of the imported modules: compiled Python, and libraries under one block."""
    found = set()
    for module in list(sys.modules.values()):
        spec = getattr(module, "__spec__", None)
        for name in (getattr(spec, "cached", None), getattr(spec, "origin", None)):
            if isinstance(name, str) and (path := Path(name)).is_file() and path.stat().st_size < BLOCK:
                found.add(path)
                break
    return sorted(found)


def main() -> int:
    """Import what a job imports, and write the list."""
    for name in FIRST:
        importlib.import_module(name)
    libraries, early = touched(), modules()
    for name in AFTER:
        importlib.import_module(name)
    whole = [(0, path.stat().st_size, path) for path in early]
    for path, blocks in sorted(libraries.items()):
        size = path.stat().st_size
        whole += [(first * BLOCK, min(end * BLOCK, size) - first * BLOCK, path) for first, end in runs(blocks)]
    later = [(0, path.stat().st_size, path) for path in sorted(set(modules()) - set(early))]
    later += [(0, path.stat().st_size, path) for path in sorted(libraries) if path.name in ON_A_GPU]
    lines = [*(f"{offset} {length} {path}\n" for offset, length, path in whole), "-\n"]
    lines += [f"{offset} {length} {path}\n" for offset, length, path in later]
    Path(sys.argv[1]).write_text("".join(lines), encoding="utf-8")
    sizes = [sum(length for _, length, _ in part) / 1e6 for part in (whole, later)]
    print(f"list_libraries: {sizes[0]:.0f} MB in {len(whole)} pieces, {sizes[1]:.0f} MB later in {len(later)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
