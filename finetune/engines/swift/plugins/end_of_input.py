"""ms-swift plugin: end of stdin ends `swift infer` with exit code 0; added by the swift launcher.

Without it, Ctrl-D at the prompt, or piped questions, end in an EOFError traceback. The plugin also ends the process
directly after clean-up: about one conversation in ten was aborted by a thread of native code during Python's shutdown
(`terminate called without an active exception`, exit code 250).
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
    """The next question; `exit`, as if typed, at the end of input or after Ctrl-C at the prompt."""
    try:
        text = _ask(self)
    except (EOFError, KeyboardInterrupt):
        print()
        text = "exit"
    if text.strip().lower() in ("exit", "quit"):
        atexit.register(_leave)
    return text


def _leave() -> None:
    """Do the remaining clean-up, then end the process without Python's shutdown."""
    atexit.unregister(_leave)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(int(_failed))


def _note(*error: object) -> None:
    """sys.excepthook: sets exit code 1."""
    global _failed
    _failed = True
    _before(*error)  # type: ignore[arg-type]


InferCliState.input_text = _ask_until_the_end
sys.excepthook = _note
