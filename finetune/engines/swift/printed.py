"""The output of ms-swift that a script kept in a file; infer.sh and merge.sh quote it if a run fails."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from common.i18n import _


def last_line(log: Path) -> str:
    """The last line that a program printed, which is a traceback's cause. Copies the output and names the copy."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _("it printed nothing")
    lines = [line for line in text.splitlines() if line.strip()]
    descriptor, kept = tempfile.mkstemp(prefix="infer-", suffix=".log")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return _("{last}; its whole output is in {kept}").format(
        last=lines[-1] if lines else _("it printed nothing"), kept=kept
    )
