"""Reads SHA256SUMS files and checks folders against them; called by weights/fetch.py. Standard library only."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

OFFICIAL = Path(__file__).resolve().parent / "SHA256SUMS"
OFFICIAL_MODEL = "Qwen2.5-7B-Instruct"
MODELS = Path(__file__).resolve().parent / "models"  # NAME.sums of every other model, written by listing.py
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PIN = re.compile(r"# revision (\S+) (\S+)")
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](\S.*)")
_BLOCK = 4 << 20  # large enough that hashlib releases the GIL nearly all the time


def read(path: Path) -> dict[str, str]:
    """The file's entries, name -> lower-case sha256.

    Raises ValueError, with a message for the user, if it is unusable.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            raise ValueError(f"{path}, line {number} is not '<sha256>  <file name>', the form that sha256sum writes")
        if "/" in match[2] or match[2] in (".", ".."):
            raise ValueError(f"{path}, line {number} names a path, {match[2]}; only plain file names are allowed")
        sums[match[2]] = match[1].lower()
    if not sums:
        raise ValueError(f"{path} lists no file; it must hold lines '<sha256>  <file name>'")
    return sums


def file_of(model: str) -> Path:
    """The list of a model, by its name at the hubs without the owner. Raises ValueError for an invalid name."""
    if not _NAME.fullmatch(model):
        raise ValueError(f"MODEL={model}: a name as the hubs have it, such as Qwen2.5-1.5B-Instruct, without its owner")
    return OFFICIAL if model == OFFICIAL_MODEL else MODELS / f"{model}.sums"


def revisions(path: Path) -> dict[str, str]:
    """{hub: revision that the list was made from}, from the lines `# revision HUB REVISION`; {} without any."""
    matches = map(_PIN.fullmatch, path.read_text(encoding="utf-8").splitlines())
    return {match[1]: match[2] for match in matches if match}


def sha256(path: Path, progress: Callable[[int], None] = lambda count: None) -> str:
    """The file's sha256 in hex; progress is called with the size of each block read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            progress(len(block))
    return digest.hexdigest()


def absence(path: Path) -> str | None:
    """Why the file cannot be read as a regular file, or None if it can."""
    if path.is_symlink() and not path.exists():
        return f"is a symbolic link to {os.readlink(path)}, which is not there"
    return None if path.is_file() else "is missing"


def check(
    folder: Path, sums: Mapping[str, str], progress: Callable[[int], None] = lambda count: None
) -> dict[str, str]:
    """Compare folder/NAME with its checksum for every NAME, in parallel; returns {name: what is wrong}."""

    def problem(name: str) -> str | None:
        path = folder / name
        if text := absence(path):
            return text
        try:
            found = sha256(path, progress)
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return None if found == sums[name] else f"has sha256 {found[:12]}… instead of {sums[name][:12]}…"

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        # Largest first, so that the pool does not end with one long file.
        names = sorted(sums, key=lambda name: -_size(folder / name))
        return {name: text for name, text in zip(names, pool.map(problem, names), strict=True) if text}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
