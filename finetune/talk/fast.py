"""Answers by the fast lane's own Qwen2, if it supports the options given; commands/infer.py calls it.

An answer begins as soon as the weights are loaded. ms-swift would first need twenty seconds for its imports.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError, without_remedy
from common.i18n import _
from common.json_files import json_object
from finetune.engines.fast.loaded_model import Lane
from finetune.engines.swift.arguments import Arguments
from finetune.verify.engine import load_adapter
from qwen2 import adapter_config
from qwen2.config import Config

NUMBERS = ("temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens", "seed")
# Options that have no effect here, or that are handled separately.
PASSED_OVER = frozenset({"stream", "model", "adapters", "system", "torch_dtype"})
MAX_NEW_TOKENS = 2048
REPLACED = "\ufffd"  # what the decoder writes for an incomplete character


@dataclass(frozen=True)
class Wish:
    """What the user asks for: model, adapter, system prompt (None: the template's own) and sampling."""

    model: Path
    adapter: Path | None
    system: str | None
    max_new_tokens: int = MAX_NEW_TOKENS
    sampling: Mapping[str, Any] = field(default_factory=dict)


def wish(args: Arguments, file: Mapping[str, Any], model: Path, adapter: Path | None, system: str | None) -> Wish | str:
    """What the user asks for, or the reason why ms-swift has to answer.

    Args:
        args: The options that the user gave, in ms-swift's form.
        file: The options of the config file; `args` override them.
        model: The folder of the base.
        adapter: The folder of the adapter, checked; None asks the base.
        system: The system prompt that the adapter was trained with.
    """
    try:
        Config.from_dir(model)
    except ValueError as error:
        return without_remedy(error)
    if adapter and (reason := adapter_config.not_plain(json_object(adapter / adapter_config.CONFIG_FILE))):
        return reason
    options: dict[str, Any] = dict(file) | {item.name: " ".join(item.values) for item in args.given}
    strange = [name for name in options if name not in PASSED_OVER and name not in NUMBERS]
    if strange:
        return f"--{strange[0]}"
    if str(options.get("torch_dtype", "bfloat16")) not in ("bfloat16", "auto"):
        return f"--torch_dtype {options['torch_dtype']}"
    own = json_object(model / "generation_config.json")  # the model's defaults hold, as in ms-swift
    values: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "seed": 0}
    values |= {name: own[name] for name in values if isinstance(own.get(name), (int, float))}
    try:
        values |= {name: float(options[name]) for name in NUMBERS if name in options}
    except (TypeError, ValueError):
        return _("an option whose value is not a number")
    limit = int(values.pop("max_new_tokens", MAX_NEW_TOKENS))
    values["top_k"], values["seed"] = max(0, int(values["top_k"])), int(values["seed"])
    text = str(options["system"]) if options.get("system") is not None else system
    if text and text.endswith(".txt"):  # ms-swift reads the prompt from such a file
        return f"--system {text}"
    return Wish(model, adapter, text, limit, values)


class TalkModel:
    """The model that was asked for, with its adapter."""

    def __init__(self, lane: Lane, wanted: Wish) -> None:
        self.lane, self.wanted = lane, wanted
        self.model = lane.model()
        self.adapter = load_adapter(wanted.adapter, self.model) if wanted.adapter else None

    def stream(self, messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """The answer to a conversation, piece by piece. Raises UserError if the conversation is too long."""
        pieces: queue.Queue[list[int] | BaseException | None] = queue.Queue()
        stop = threading.Event()

        def watch(ids: list[int]) -> None:
            if stop.is_set():
                raise _Unwanted
            pieces.put(ids)

        def work() -> None:
            try:
                pieces.put(self._generate(messages, watch))
                pieces.put(None)
            except BaseException as error:
                pieces.put(error)

        worker = threading.Thread(target=work, name="answer", daemon=True)
        worker.start()
        said = ""
        try:
            while (found := pieces.get()) is not None:
                if isinstance(found, BaseException):
                    raise found
                text = self.lane.tokenizer.decode(found)
                if len(text) > len(said) and not text.endswith(REPLACED):
                    yield text[len(said) :]
                    said = text
        finally:
            stop.set()
            worker.join()

    def _generate(self, messages: Sequence[Mapping[str, Any]], watch: Any) -> list[int]:
        from qwen2.generate import generate

        prompt = self.lane.tokenizer.encode_chat(list(messages), system=self.wanted.system)
        room = self.model.config.max_positions - len(prompt)
        if room < 1:
            raise UserError(_("infer: the conversation is longer than the model's context; type `clear` to start over"))
        limit = min(self.wanted.max_new_tokens, room)
        try:
            (ids,) = generate(self.model, [prompt], limit, self.adapter, watch=watch, **self.wanted.sampling)
        except ValueError as error:
            raise UserError(f"infer: {error}") from None
        return ids


class _Unwanted(Exception):
    """Stops the generation of an answer that is no longer read."""
