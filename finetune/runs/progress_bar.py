"""A progress bar with the remaining time on a terminal, plain lines elsewhere; for verify's answers and sft's steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from common.i18n import _

if TYPE_CHECKING:
    from rich.console import Console

QUIET_S = 10  # between two lines of progress in a file


class Bar:
    """`with Bar(console, total) as bar: bar.phase("..."); bar.advance(n)`. total counts answers or other units."""

    def __init__(
        self,
        console: Console,
        total: int,
        listener: Callable[[int, int], None] | None = None,
        unit: str = "answers",
    ) -> None:
        """listener(done, total) is called at every step, for the job's heartbeat."""
        self.console, self.total, self.done, self.listener, self.unit = console, total, 0, listener, unit
        self.started = time.monotonic()
        self.live: Any = None
        self.task: Any = None
        self.said = self.started

    def __enter__(self) -> Bar:
        if self.console.is_terminal:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self.live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.live.start()
            self.task = self.live.add_task("", total=self.total)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live:
            self.live.stop()

    def phase(self, text: str) -> None:
        """Name the current phase."""
        self.detail(text)
        if not self.live:
            self.note(f"{text} ...")

    def detail(self, text: str) -> None:
        """Show more detail about the current phase, on a terminal only: it may change many times per second."""
        if self.live:
            self.live.update(self.task, description=text)

    def note(self, text: str) -> None:
        """Print a line that stays above the bar."""
        (self.live.console if self.live else self.console).print(text, soft_wrap=True, highlight=False, markup=False)

    def figure(self, text: str, keep: bool = False) -> None:
        """Print one line of a series above the bar. A file gets at most one per QUIET_S, instead of the progress, plus
        those with `keep`; logging.jsonl has them all."""
        if self.live or keep or time.monotonic() - self.said > QUIET_S:
            self.said = time.monotonic()
            self.note(text)

    def expect(self, total: int) -> None:
        """Set the total, if it was not known at the start."""
        self.total = total
        if self.live:
            self.live.update(self.task, total=total)

    def restart(self, total: int, unit: str) -> None:
        """Restart the count, for a different kind of work."""
        self.done, self.unit, self.started = 0, unit, time.monotonic()
        self.expect(total)
        if self.live:
            self.live.reset(self.task, total=total)

    def advance(self, count: int) -> None:
        """Report that count more answers are done."""
        self.done += count
        if self.listener:
            self.listener(self.done, self.total)
        if self.live:
            self.live.advance(self.task, count)
        elif time.monotonic() - self.said > QUIET_S:
            self.said = time.monotonic()
            used = self.said - self.started
            left = used / max(self.done, 1) * (self.total - self.done)
            self.note(
                _("{done}/{total} {unit}, about {left:.0f} s left").format(
                    done=self.done, total=self.total, unit=self.unit, left=left
                )
            )
