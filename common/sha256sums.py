"""SHA256SUMS of a folder's files, as `sha256sum -c` reads them; for checkpoints and merge."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NAME = "SHA256SUMS"


def write(folder: Path) -> Path:
    """Write the sums of all files of a folder (not of folders in it) into it; the file's path."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != NAME)
    with ThreadPoolExecutor(4) as pool:  # hashlib lets other threads run
        lines = [f"{found}  {path.name}\n" for found, path in zip(pool.map(digest, paths), paths, strict=True)]
    try:
        (folder / NAME).write_text("".join(lines), encoding="utf-8")
    except OSError:
        (folder / NAME).unlink(missing_ok=True)
        raise
    return folder / NAME


def read(path: Path) -> dict[str, str]:
    """{file name: sha256} of a list in `sha256sum` form; empty when there is none that can be read."""
    try:
        return _parsed(path)
    except (OSError, UnicodeDecodeError):
        return {}


def changed(folder: Path, names: Iterable[str]) -> str | None:
    """The first of these files whose bytes are not those of its sum; None where all are, or none has a sum.

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
