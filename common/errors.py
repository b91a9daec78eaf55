"""How a command of this project ends: one line for the user and an exit code; used by every `python -m finetune.*`."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import common
from common import exec_home, gpu_order, host, i18n
from common.i18n import _

DONE = 0
FAILED = 1
UNUSABLE = 2


class UserError(Exception):
    """An error for the user. Its message is the complete line: what is wrong, why, what to do.

    `exit_code` is 2 (unusable arguments or input) by default; 1 means that a check, a threshold or the job failed.
    """

    def __init__(self, message: str, exit_code: int = UNUSABLE) -> None:
        # A message built from user data may contain line breaks; it must be one line.
        super().__init__(" ".join(str(message).split()))
        self.exit_code = exit_code


def without_remedy(error: object) -> str:
    """The first part of an error line: what is wrong, without what to do."""
    return re.split("; |；", str(error), maxsplit=1)[0]


class Parser(argparse.ArgumentParser):
    """An argument parser with one-line errors; argparse would print the whole usage before each."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As argparse's, with `--lang` in its help; `take_language` removes it before a command parses arguments."""
        super().__init__(*args, **kwargs)
        self.add_argument(
            "--lang",
            choices=i18n.LANGUAGES,
            default=argparse.SUPPRESS,
            help=_("language of messages (default: that of MIRROR_LANG or LANG)"),
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but rejects `--option=--`: argparse would drop the `--` and return an empty list."""
        words = sys.argv[1:] if args is None else list(args)
        if wrong := next((word for word in words if word.startswith("--") and word.endswith("=--")), None):
            self.error(_("{word}: -- is not a value").format(word=wrong))
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Raises UserError with argparse's message and where to read more."""
        raise UserError(_("{message}; see {command} --help").format(message=message, command=self.prog))


def run_main(main: Callable[..., int | None], *args: object) -> int:
    """Call a command's `main(*args)` and turn any outcome into an exit code: `sys.exit(run_main(main))`.

    UserError prints its line on stderr and gives its code. Ctrl-C gives 130, a closed pipe 141 (as a shell would).
    Anything else is a bug of ours: one line that names the file with the traceback, and 1.
    """
    exec_home.ensure()
    gpu_order.settle()
    return exit_code(main, *args)


def exit_code(main: Callable[..., int | None], *args: object) -> int:
    """run_main without setting HOME and the GPU order first: a probe needs neither."""
    try:
        take_language()
        return main(*args) or DONE
    except UserError as error:
        print(_("error: {message}").format(message=host.shown(error)), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(_("interrupted"), file=sys.stderr)
        return 130
    except BrokenPipeError:
        # `check-data ... | head`: the reader has closed the pipe. Redirect stdout, or Python complains when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        saved = save_traceback()
        print(_("internal error: {message}; {saved}").format(message=words, saved=saved), file=sys.stderr)
        return FAILED


def take_language() -> None:
    """Remove `--lang` from this process's arguments; it applies to its messages and to the processes it starts."""
    words = sys.argv[1:]
    try:
        i18n.take_option(words)
    except ValueError as error:
        raise UserError(_("--lang {value}: unknown language; give zh or en").format(value=error)) from None
    sys.argv[1:] = words


def command(module: str) -> list[str]:
    """The command line, without arguments, that runs a module's `main` in a separate process.

    `python -m` would import from the working folder first, where a user may have a json.py. PYTHONSAFEPATH needs
    Python 3.11.
    """
    root = str(Path(common.__file__).resolve().parent.parent)
    code = f"import sys; sys.path[0] = sys.argv.pop(1); from {module} import main; "
    return [sys.executable, "-c", f"{code}from common.errors import run_main; sys.exit(run_main(main))", root]


def leave(code: int) -> NoReturn:
    """End the process now: unloading CUDA and torch's modules takes a second, and the kernel cleans up anyway.

    For a command whose files are written and whose child processes have ended; atexit handlers do not run.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def save_traceback() -> str:
    """Write the traceback of the current exception to a file and report where it is."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="mirror-traceback-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(traceback.format_exc())
        return _("traceback saved to {file}").format(file=file.name)
    except OSError as error:
        return _("its traceback could not be saved ({reason})").format(reason=error)
