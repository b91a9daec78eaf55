"""A folder closed to an ordinary user, and a block that runs as one: root, as whom tests run, too, may do all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

NOBODY = 65534


@contextlib.contextmanager
def closed_folder() -> Iterator[Path]:
    """A folder that everybody reaches and none but root may write; root's tmp_path is closed to others."""
    with tempfile.TemporaryDirectory() as outer:
        os.chmod(outer, 0o755)
        folder = Path(outer) / "closed"
        folder.mkdir(mode=0o555)
        yield folder


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Run the block as this user, or as no one where this is root. access(2) asks the real user, open the effective."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
