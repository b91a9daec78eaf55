"""A conversation at a terminal; talk/fast.py and export/chat.py give the answers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

from common.errors import UserError
from common.i18n import _

PROMPT = "<<< "
Message = dict[str, str]
Answerer = Callable[[Sequence[Message]], Iterator[str]]  # a conversation -> the pieces of its answer


def converse(who: str, answer: Answerer) -> None:
    """Talk until `exit` or the end of the input. `clear` forgets the conversation.

    If a question cannot be answered, the error is printed and the conversation continues without the question.

    Args:
        who: Who answers, for the first line.
        answer: Gives the answer to a conversation.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() then edits lines and remembers them
    print(_("Talking to {who}; exit leaves, clear forgets what was said").format(who=who), file=sys.stderr)
    said: list[Message] = []
    while True:
        try:
            text = input(PROMPT).strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if text in ("exit", "quit"):
            return
        if text == "clear":
            said.clear()
        elif text:
            said.append({"role": "user", "content": text})
            try:
                said.append({"role": "assistant", "content": show(answer(said))})
            except UserError as error:
                said.pop()
                print(_("error: {message}").format(message=error), file=sys.stderr)
            except KeyboardInterrupt:  # the user does not want the rest of the answer
                said.pop()
                print()


def show(parts: Iterator[str]) -> str:
    """Print an answer while it is generated; returns the whole text."""
    whole = ""
    for part in parts:
        print(part, end="", flush=True)
        whole += part
    print()
    return whole
