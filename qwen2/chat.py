"""Text to token ids and labels with ms-swift's Qwen2.5 template, without ms-swift; called by finetune and bench.

rows.py turns a row into messages, template.py messages into texts, and this module texts into ids.
tests/unit/qwen2 checks that ids and labels equal ms-swift's for every kind of row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.i18n import _
from qwen2 import template
from qwen2.row_errors import RowError
from qwen2.rows import Message, Row, standard_row
from qwen2.template import DEFAULT_SYSTEM

__all__ = ["DEFAULT_SYSTEM", "IGNORED", "RowError", "Tokenizer", "standard_row"]

IGNORED = -100  # label of a token without loss


def _byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary represents (GPT-2's encoder.py, bytes_to_unicode)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_alphabet()


class TextStream:
    """Decodes ids one by one: a character is returned once all of its bytes have arrived."""

    def __init__(self, backend: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self._backend, self._stream = backend, DecodeStream(skip_special_tokens=True)

    def step(self, token: int) -> str | None:
        """The text that this token completes; None if there is none."""
        return self._stream.step(self._backend, token)


class Tokenizer:
    """The tokenizer.json of a model folder with the Qwen2.5 chat template."""

    def __init__(self, model_dir: str | Path) -> None:
        """Raises ValueError, with a message for the user, if the folder has no usable tokenizer.json."""
        from tokenizers import Tokenizer as Backend

        path = Path(model_dir) / "tokenizer.json"
        if not path.is_file():
            raise ValueError(
                _("no tokenizer.json in {model_dir}: the model folder is incomplete; download it again").format(
                    model_dir=model_dir
                )
            )
        try:
            self._backend = Backend.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise ValueError(
                _("{path} cannot be read ({error}); download it again").format(path=path, error=error)
            ) from None
        self._backend.no_truncation()
        self._backend.no_padding()
        missing = [t for t in ("<|im_start|>", "<|im_end|>") if self._backend.token_to_id(t) is None]
        if missing:
            raise ValueError(
                _("{path} has no {missing}: it is not a Qwen2.5 tokenizer; use ENGINE=swift for this model").format(
                    path=path, missing=missing[0]
                )
            )
        self._added = frozenset(self._backend.get_added_tokens_decoder())
        self._suffix = self.encode(template.END)

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Special tokens written in it become special tokens; none is added."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of ids."""
        return self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token, which may be part of a character; empty for an id beyond the vocabulary."""
        text = self._backend.id_to_token(token)
        if text is None or token in self._added:
            return (text or "").encode()
        return bytes(_BYTES[char] for char in text)

    def stream(self) -> TextStream:
        """Text of ids that arrive one by one, without special tokens."""
        return TextStream(self._backend)

    def encode_chat(
        self,
        messages: Sequence[Message],
        system: str | None = None,
        add_generation_prompt: bool = True,
        tools: Any = None,
    ) -> list[int]:
        """Ids of a conversation to be answered.

        Args:
            messages: The conversation; a system message in it wins over `system`.
            system: The system prompt. If both are absent, the template's default is used; "" means none.
            add_generation_prompt: If false, the text ends with the last message.
            tools: Tools that the model may call, in any form that tools_of accepts.
        """
        parts = template.parts(messages, tools, system, generation_prompt=add_generation_prompt)
        return self.encode("".join(text for text, _ in parts))

    def encode_row(self, row: Row, system: str | None = None) -> tuple[list[int], list[int]]:
        """(ids, labels) of a training row in any of ms-swift's layouts (see rows.standard_row), equal to ms-swift's.

        `system` is for rows that have none of their own. Raises RowError if the row has no answer or is malformed.
        """
        messages, tools = standard_row(row)
        parts = template.parts(messages, tools, system, generation_prompt=False, training=True)
        ids: list[int] = []
        labels: list[int] = []
        for text, weight in template.joined(parts):
            tokens = self.encode(text)
            ids += tokens
            labels += tokens if weight > 0 else [IGNORED] * len(tokens)
        self._label_turn_ends(ids, labels)
        if labels:
            labels[0] = IGNORED
        return ids, labels

    def _label_turn_ends(self, ids: list[int], labels: list[int]) -> None:
        """Add loss to the <|im_end|> and newline after an answer in mid-conversation (ms-swift: _add_dynamic_eos)."""
        size, start = len(self._suffix), 0
        for i in range(1, len(labels) + 1):
            if labels[i - 1] >= 0 and i < len(labels) and labels[i] == IGNORED:
                start = i
                continue
            ends = start > 0 and labels[i - 1] == IGNORED and (i == len(labels) or labels[i] >= 0)
            if ends and i - start >= size and ids[start : start + size] == self._suffix:
                labels[start : start + size] = self._suffix
