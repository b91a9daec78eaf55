"""Imports torch and the qwen2 modules that need it in a thread, as soon as a command knows that it needs them.

The import takes seconds, during which options, data and GPU can be checked. Imports only the standard library.
"""

from __future__ import annotations

import importlib
import threading

WANTED = ("qwen2.generate", "qwen2.training.loop", "qwen2.training.memory")


class _Import:
    """The import running in this process: its thread, and the error if it failed."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="import-torch", daemon=True)

    def _run(self) -> None:
        threading.Thread(target=_hash_triton, name="hash-triton", daemon=True).start()
        try:
            for name in WANTED:
                importlib.import_module(name)
        except BaseException as error:
            self.error = error


_started: _Import | None = None


def begin() -> None:
    """Start the import unless it is running or done."""
    global _started
    if _started is None:
        _started = _Import()
        _started.thread.start()


def wait() -> BaseException | None:
    """Wait for the import that `begin` started, or start it; returns the exception it raised."""
    begin()
    assert _started is not None
    _started.thread.join()
    return _started.error


def _hash_triton() -> None:
    """Looking up a kernel hashes Triton's 400 MB library, which takes half a second. torch is imported meanwhile."""
    try:
        from triton.runtime.cache import triton_key

        triton_key()
    except Exception:  # no Triton, or another version: ops_triton reports what does not work
        return
