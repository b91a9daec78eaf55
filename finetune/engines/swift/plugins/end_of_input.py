"""ms-swift plugin: the end of stdin ends `swift infer` with exit code 0; the swift launcher adds it.

Without it, Ctrl-D at the prompt, or questions piped in, end in a traceback of EOFError. And a conversation that is over
ends the process at once, with what it has to clean up done: about one in ten was aborted while Python took itself down
(`terminate called without an active exception`, exit code 250), by a thread of native code.
"""

import atexit
import contextlib
import os
import sys

from swift.pipelines.infer.utils import InferCliState

_ask = InferCliState.input_text
_before = sys.excepthook
_failed = False


def _ask_until_the_end(self: InferCliState) -> str:
    """The next question; `exit`, as if typed, when there is none to come or the user pressed Ctrl-C at the prompt."""
    try:
        text = _ask(self)
    except (EOFError, KeyboardInterrupt):
        print()
        text = "exit"
    if text.strip().lower() in ("exit", "quit"):
        atexit.register(_leave)
    return text


def _leave() -> None:
    """Do what else is to be done at the end, then end: Python is not taken down."""
    atexit.unregister(_leave)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # no one reads it any more
            stream.flush()
    os._exit(int(_failed))


def _note(*error: object) -> None:
    """sys.excepthook: the exit code is to be 1."""
    global _failed
    _failed = True
    _before(*error)  # type: ignore[arg-type]


InferCliState.input_text = _ask_until_the_end
sys.excepthook = _note
