"""SHA256SUMS of a folder's files, as `sha256sum -c` reads them; for checkpoints, merge and the health checks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NAME = "SHA256SUMS"


def write(folder: Path) -> Path:
    """Write the checksums of all files in a folder (not in its subfolders) into it; returns the file's path."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != NAME)
    with ThreadPoolExecutor(4) as pool:  # hashlib releases the GIL
        lines = [f"{found}  {path.name}\n" for found, path in zip(pool.map(digest, paths), paths, strict=True)]
    try:
        (folder / NAME).write_text("".join(lines), encoding="utf-8")
    except OSError:
        (folder / NAME).unlink(missing_ok=True)
        raise
    return folder / NAME


def read(path: Path) -> dict[str, str]:
    """{file name: sha256} from a file in `sha256sum` format; empty if it is missing or cannot be read."""
    try:
        return _parsed(path)
    except (OSError, UnicodeDecodeError):
        return {}


def changed(folder: Path, names: Iterable[str]) -> str | None:
    """The first of these files that does not match its checksum. None if all match or have none.

    Raises OSError if a file cannot be read.
    """
    try:
        sums = _parsed(folder / NAME)
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return next((name for name in names if name in sums and digest(folder / name) != sums[name]), None)


def _parsed(path: Path) -> dict[str, str]:
    pairs = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines())
    return {pair[1].lstrip("*"): pair[0].lower() for pair in pairs if len(pair) == 2}


def digest(path: Path) -> str:
    """A file's sha256 in hex."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()
