"""ms-swift plugin: the end of stdin ends `swift infer` with exit code 0; the swift launcher adds it.

Without it, Ctrl-D at the prompt, or questions piped in, end in a traceback of EOFError.
"""

from swift.pipelines.infer.utils import InferCliState

_ask = InferCliState.input_text


def _ask_until_the_end(self: InferCliState) -> str:
    """The next question; `exit`, as if typed, when there is none to come or the user pressed Ctrl-C at the prompt."""
    try:
        return _ask(self)
    except (EOFError, KeyboardInterrupt):
        print()
        return "exit"


InferCliState.input_text = _ask_until_the_end
