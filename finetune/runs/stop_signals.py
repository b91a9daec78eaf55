"""Stop signals of a run that trains in this process: the effect of the first and second; used by train and pipeline.

The first ends the run where that is safe: at once before training, after the current step while training, and in a
finished run it ends what is left to do (the loss curve). The second ends the process at once, even if it hangs: Python
runs signal handlers only between two instructions of the main thread, which a hung CUDA call never reaches, so a
separate thread reads the signals from a pipe (signal.set_wakeup_fd).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from common.i18n import _
from finetune.runs.supervise import SAME_SIGNAL_S, STOPPING


class Stop:
    """`with Stop() as stop:` handles the stop signals in the main thread; in other threads it does nothing.

    Attributes:
        number: the first signal; None if there was none.
        at_steps: set from the first step on. A signal then only sets `number`; before, it raises SystemExit(128 + n).
        plan: the effect of the first signal, for the screen; "" prints nothing.
        at_once: called with the number when a second signal ends the process; returns the line for the screen.
        cleanup: called before that happens.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.at_steps = False
        self.plan = ""
        self.at_once: Callable[[int], str] = lambda number: _("error: ended by {name}").format(
            name=signal.Signals(number).name
        )
        self.cleanup: list[Callable[[], None]] = []
        self._before: dict[int, Any] = {}
        self._first_at = 0.0
        self._unwinding = False

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            reading, self._pipe = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._pipe, False)
            threading.Thread(target=self._watch, args=(reading,), name="stop-signals", daemon=True).start()
            self._pipe_before = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, self._take) for number in STOPPING}
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._before:
            return
        signal.set_wakeup_fd(self._pipe_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._pipe)  # the thread reads end-of-file

    def trained(self) -> None:
        """From here on the run is done, and a signal only ends the remaining work."""
        self.plan = _("the training is done, what is left is given up")

    def _take(self, number: int, frame: object) -> None:
        """Runs in the main thread, possibly late: the thread below has recorded the signal by then, or does so now."""
        if self.number is None:
            self.number = number
        if not self.at_steps and not self._unwinding:
            self._unwinding = True  # another exception would interrupt the clean-up
            raise SystemExit(128 + number)

    def _watch(self, reading: int) -> None:
        """Read one byte per signal until __exit__."""
        try:
            while data := os.read(reading, 1):
                if data[0] in STOPPING:
                    self._note(data[0])
        finally:
            os.close(reading)

    def _note(self, number: int) -> None:
        now = time.monotonic()
        if not self._first_at:
            self._first_at = now
            self.number = self.number or number
            if self.at_steps and self.plan:
                name = signal.Signals(number).name
                print(
                    _("{name}: {plan}; a second one ends at once").format(name=name, plan=self.plan),
                    file=sys.stderr,
                    flush=True,
                )
        elif now - self._first_at > SAME_SIGNAL_S:
            self._end(number)

    def _end(self, number: int) -> NoReturn:
        for each in (*self.cleanup, lambda: print(self.at_once(number), file=sys.stderr, flush=True)):
            with contextlib.suppress(Exception):  # nothing may keep the process alive now
                each()
        os._exit(128 + number)
