"""Counts the tokens of rows with the model's own tokenizer and chat template, many rows at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.i18n import _

Messages = list[dict[str, Any]]


class Counter:
    """The tokenizer of a model folder, for counting only: no offsets or ids are made in Python."""

    def __init__(self, model_dir: Path, system: str | None) -> None:
        """`system` is for rows without a system prompt. Raises UserError if the tokenizer cannot be read."""
        from tokenizers import Tokenizer

        path = model_dir / "tokenizer.json"
        if not path.is_file():
            raise UserError(
                _("{path}: no such file, so tokens cannot be counted; set MODEL_DIR to the model's folder").format(
                    path=path
                )
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise UserError(
                _("{path}: cannot be read ({reason}); the model folder is incomplete").format(path=path, reason=error)
            ) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.system = system

    def count(self, rows: Sequence[tuple[Messages, Any]]) -> list[int]:
        """The tokens of each row, (messages, tools), as in the training: with template, system prompt and end marks."""
        # The texts are those that qwen2.chat encodes; its tests compare them with ms-swift's template.
        from qwen2.template import joined, parts

        texts: list[str] = []
        ends: list[int] = []
        for messages, tools in rows:
            found = parts(messages, tools, self.system, generation_prompt=False, training=True)
            texts += [text for text, _other in joined(found)]
            ends.append(len(texts))
        lengths = [len(e) for e in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        return [sum(lengths[start:end]) for start, end in itertools.pairwise([0, *ends])]
