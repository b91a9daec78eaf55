"""A model folder's tokenizer as GGUF metadata: tokens with their kinds, merges, special ids and the pre-tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType

from common.errors import UserError
from common.i18n import _
from qwen2.config import Config

# Qwen2's pre-tokenizer in tokenizer.json: it cuts text into words before byte pairs are merged. llama.cpp knows such
# rules by name only (see _pre).
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF holds of a tokenizer. `tokens` has an entry for every row of the embedding."""

    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    pre: str
    eos: int
    bos: int | None
    pad: int


def read(model: Path, config: Config) -> Vocabulary:
    """Read the vocabulary of a model folder.

    Args:
        model: The folder.
        config: Its sizes.

    Raises:
        UserError: tokenizer.json cannot be read, or llama.cpp does not support what is in it.
    """
    file = model / "tokenizer.json"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        bpe = data["model"]
        table: dict[str, int] = bpe["vocab"]
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in bpe["merges"]]
        if bpe["type"] != "BPE":
            raise ValueError(_("its model is {type}, not BPE").format(type=bpe["type"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            _("{file} cannot be read ({error}); download the model folder again").format(file=file, error=error)
        ) from None
    tokens = [""] * config.vocab_size
    kinds = [int(TokenType.UNUSED)] * config.vocab_size
    for text, number in table.items():
        if number < len(tokens):
            tokens[number], kinds[number] = text, int(TokenType.NORMAL)
    added = {each["content"]: each for each in data.get("added_tokens", [])}
    for text, each in added.items():
        if each["id"] >= len(tokens):
            raise UserError(
                _("{file}: {text} has the id {id}, beyond the {count} rows of the embedding").format(
                    file=file, text=text, id=each["id"], count=len(tokens)
                )
            )
        tokens[each["id"]] = text
        kinds[each["id"]] = int(TokenType.CONTROL if each.get("special") else TokenType.USER_DEFINED)
    for number, text in enumerate(tokens):
        if not text:  # the embedding has more rows than the tokenizer has tokens
            tokens[number] = f"[PAD{number}]"
    if "<|im_end|>" not in added:
        raise UserError(
            _("{file} has no <|im_end|>; it is not a Qwen2.5 tokenizer and cannot be exported").format(file=file)
        )
    raw = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return Vocabulary(
        tokens, kinds, merges, _pre(file, data), config.eos_ids[0], raw.get("bos_token_id"), config.pad_id
    )


def _pre(file: Path, data: dict[str, Any]) -> str:
    steps = data.get("pre_tokenizer") or {}
    parts = steps.get("pretokenizers", [steps])
    first, last = parts[0], parts[-1]
    if first.get("type") == "Split" and (first.get("pattern") or {}).get("Regex") == _QWEN2:
        return "qwen2"
    if first == {"type": "Digits", "individual_digits": True} and last.get("use_regex"):
        return "smollm"
    raise UserError(
        _("{file}: its pre-tokenizer is neither Qwen2's nor SmolLM's; it cannot be exported").format(file=file)
    )
