"""Splits image.lock in two, so that torch with its CUDA wheels is a separate layer; called by the Dockerfile.

usage: split_lock.py LOCK torch|rest|triton

`torch` prints the locked lines of torch, triton and the NVIDIA wheels, `rest` all others. The two are installed with
--no-deps, since the lock already names everything. A test build with its own torch installs only `rest` and, for the
kernel tests, `triton`, which is part of `torch`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

TORCH_FAMILY = re.compile(r"(torch|triton|nvidia-[a-z0-9-]+-cu\d+|cuda-[a-z0-9-]+)==")


def split(lock: str) -> dict[str, str]:
    """{"torch", "rest", "triton": text}; a requirement is a line at column 0 with the indented lines after it."""
    parts: dict[str, list[str]] = {"torch": [], "rest": [], "triton": []}
    current = [parts["rest"]]
    for line in lock.splitlines(keepends=True):
        if line[:1].isalnum():
            current = [parts["torch" if TORCH_FAMILY.match(line) else "rest"]]
            if line.startswith("triton=="):
                current.append(parts["triton"])
        for part in current:
            part.append(line)
    return {name: "".join(lines) for name, lines in parts.items()}


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[2] not in ("torch", "rest", "triton"):
        sys.exit("usage: split_lock.py LOCK torch|rest|triton")
    sys.stdout.write(split(Path(sys.argv[1]).read_text())[sys.argv[2]])
