"""A home that can be written, for what `docker exec --user N` starts; healthcheck and finetune call it first.

The entry point gives its own command one (start.d/10-home.sh), but a process that is started by `docker exec` does not
pass there: Docker gives it HOME=/, where Triton and datasets cannot make their caches.
"""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path


def ensure() -> None:
    """Set HOME to /tmp/home-UID where it is missing, `/` or read-only, and USER where no one has this number.

    Where no folder can be made HOME stays as it is: what needs it says so itself.
    """
    user = os.getuid()
    home = os.environ.get("HOME") or "/"
    if home == "/" or not os.access(home, os.W_OK):
        try:  # nothing at all may be writable: then there is no folder for temporary files either
            path = Path(tempfile.gettempdir(), f"home-{user}")
            path.mkdir(mode=0o700, exist_ok=True)
            # One that someone else made there is not ours to trust.
            is_ours = path.stat().st_uid == user and os.access(path, os.W_OK)
            os.environ["HOME"] = str(path) if is_ours else tempfile.mkdtemp(prefix=f"home-{user}-")
        except OSError:
            pass
    try:
        pwd.getpwuid(user)
    except KeyError:  # getpass.getuser(), which torch calls to name its cache, would fail
        os.environ.setdefault("USER", "mirror")
        os.environ.setdefault("LOGNAME", "mirror")
