"""Questions and conversations with a GGUF file, greedy, by llama.cpp on the CPU; `infer.sh --gguf` calls it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.errors import UserError
from common.i18n import _
from finetune.export.llamacpp import LlamaServer
from finetune.export.modelfile import MAX_TOKENS
from finetune.talk import terminal

CONTEXT = 8192  # tokens of a conversation
MAGIC = b"GGUF"


def run(path: Path, questions: Sequence[str]) -> int:
    """Answer each question by itself, or start a conversation if there are none.

    Args:
        path: The GGUF file.
        questions: What to ask.

    Returns:
        The exit code.

    Raises:
        UserError: The file does not exist, or llama.cpp cannot load it.
    """
    _require_file(path)
    print(_("loading {path} ...").format(path=path), file=sys.stderr, flush=True)
    with LlamaServer(path, CONTEXT) as model:
        if not questions:
            terminal.converse(path.name, lambda said: _answer(model, said))
        for question in questions:
            if len(questions) > 1:
                print(question)
            terminal.show(_answer(model, [{"role": "user", "content": question}]))
            if len(questions) > 1:
                print()
    return 0


def _require_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            begin = file.read(len(MAGIC))
    except OSError as error:
        raise UserError(
            _("{path}: cannot be read ({reason}); name a .gguf file that export.sh wrote").format(
                path=path, reason=error.strerror
            )
        ) from None
    if begin != MAGIC:
        raise UserError(_("{path}: not a GGUF file; name a .gguf file that export.sh wrote").format(path=path))


def _answer(model: LlamaServer, messages: Sequence[dict[str, str]]) -> Iterator[str]:
    """The answer, piece by piece. Raises UserError if the conversation is too long."""
    try:
        yield from model.stream(messages, MAX_TOKENS)
    except ValueError as error:
        raise UserError(
            _("infer: {error}; type `clear` to start over, or ask a shorter question").format(error=error)
        ) from None
