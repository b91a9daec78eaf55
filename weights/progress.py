"""A progress line for large byte counts; used by weights/fetch.py, where only the standard library is certain to exist.

The hub clients' own bars redraw for every block and fill a build log with thousands of lines. This prints a line every
ten seconds without a terminal, and redraws one line on a terminal.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from weights.room import bytes_text

_lock = threading.Lock()


def say(text: str) -> None:
    """Print a line for the user on stderr; never mixed up with the progress line."""
    with _lock:
        print(f"\r\033[K{text}" if sys.stderr.isatty() else text, file=sys.stderr, flush=True)


class Progress:
    """Report measure() bytes of total every few seconds while the block runs; total 0 means unknown."""

    def __init__(self, verb: str, total: int, measure: Callable[[], int]) -> None:
        self._verb, self._total, self._measure = verb, total, measure
        self._terminal = sys.stderr.isatty()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Progress:
        self._start, self._first = time.monotonic(), self._measure()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._terminal:
            with _lock:
                print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _run(self) -> None:
        while not self._stop.wait(0.5 if self._terminal else 10):
            before, after = ("\r\033[K", "") if self._terminal else ("", "\n")
            with _lock:
                print(f"{before}{self._line()}", end=after, file=sys.stderr, flush=True)

    def _line(self) -> str:
        done, seconds = self._measure(), time.monotonic() - self._start
        rate = max(0.0, (done - self._first) / seconds)
        line = f"{self._verb}: {bytes_text(done)}"
        if self._total:
            line += f" of {bytes_text(self._total)} ({100 * done / self._total:.0f} %)"
        line += f", {bytes_text(rate)}/s"
        if self._total and rate > 0 and self._total > done:
            line += f", about {(self._total - done) / rate / 60:.0f} min left"
        return line
