"""Imports torch, and what of qwen2 needs it, in a thread, from the moment that a command knows that it will want them.

The import takes seconds, in which options, data and the card can be looked at. Only the standard library is imported.
"""

from __future__ import annotations

import importlib
import threading

WANTED = ("qwen2.generate", "qwen2.training.loop", "qwen2.training.memory")


class _Import:
    """The import under way in this process: its thread, and what went wrong."""

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
    """Start the import, if it is not under way or done."""
    global _started
    if _started is None:
        _started = _Import()
        _started.thread.start()


def wait() -> BaseException | None:
    """Wait for the import that `begin` has started, or start it; returns what it raised."""
    begin()
    assert _started is not None
    _started.thread.join()
    return _started.error


def _hash_triton() -> None:
    """To look a kernel up takes the hash of Triton's 400 MB library: half a second, in which torch can be imported."""
    try:
        from triton.runtime.cache import triton_key

        triton_key()
    except Exception:  # no Triton, or another one: ops_triton says what does not work
        return
