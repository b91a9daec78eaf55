"""What ms-swift printed, where a script kept it in a file; infer.sh and merge.sh quote it when a run of it fails."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def last_line(log: Path) -> str:
    """The last thing a program said, which in a traceback is the cause. A copy of all of it is kept and named."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "it said nothing"
    lines = [line for line in text.splitlines() if line.strip()]
    descriptor, kept = tempfile.mkstemp(prefix="infer-", suffix=".log")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return f"{lines[-1] if lines else 'it said nothing'}; all it said is in {kept}"
