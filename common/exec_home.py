"""A writable home for processes that `docker exec --user N` starts; healthcheck and finetune call it first.

The entry point sets one for its own command (start.d/10-home.sh), but `docker exec` bypasses it: Docker sets HOME=/,
where Triton and datasets cannot create their caches.
"""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path


def ensure() -> None:
    """Set HOME to /tmp/home-UID if it is missing, `/` or read-only, and USER if the uid has no name.

    If no folder can be created, HOME stays unchanged; whatever needs it reports the error itself.
    """
    user = os.getuid()
    home = os.environ.get("HOME") or "/"
    if home == "/" or not os.access(home, os.W_OK):
        try:  # nothing may be writable: then there is no folder for temporary files either
            path = Path(tempfile.gettempdir(), f"home-{user}")
            path.mkdir(mode=0o700, exist_ok=True)
            # A folder created there by another user must not be trusted.
            is_ours = path.stat().st_uid == user and os.access(path, os.W_OK)
            os.environ["HOME"] = str(path) if is_ours else tempfile.mkdtemp(prefix=f"home-{user}-")
        except OSError:
            pass
    try:
        pwd.getpwuid(user)
    except KeyError:  # getpass.getuser(), which torch calls to name its cache, would fail
        os.environ.setdefault("USER", "mirror")
        os.environ.setdefault("LOGNAME", "mirror")
