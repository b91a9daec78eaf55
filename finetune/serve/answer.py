"""What an engine says, made what the API documents: text that ends before a stop text, tool calls, chunks, usage.

door.py calls it; no engine and no web framework here.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.serve.request import ChatRequest

CALL = "<tool_call>"  # how Qwen2.5 begins one; what follows is not content where the engine has read a call from it


@dataclass(frozen=True)
class AnswerPiece:
    """What an engine gives at a time: the whole answer, or a part of a streamed one."""

    text: str
    finish: str | None = None  # stop or length, with the last piece
    prompt_tokens: int = 0
    completion_tokens: int = 0  # so far
    tool_calls: tuple[dict[str, Any], ...] = ()  # with the last piece
    logprobs: dict[str, Any] | None = None


class Choice:
    """One answer under way. `add` each piece, send what it gives, and at the end what `end` gives."""

    def __init__(self, stops: Sequence[str], tools: bool) -> None:
        self.stops = tuple(stops)
        self.marks = (*self.stops, CALL) if tools else self.stops
        self.tools = tools
        self.held = ""  # text that may be the beginning of a stop text or a tool call
        self.in_call = self.stopped = False
        self.last = AnswerPiece("")

    def add(self, piece: AnswerPiece) -> str:
        """The text that can be sent after this piece."""
        self.last = piece
        if self.stopped:
            return ""
        self.held += piece.text
        places = [place for stop in self.stops if (place := self.held.find(stop)) >= 0]
        if places:
            self.held = self.held[: min(places)]
            self.stopped = True
        if self.in_call:
            return ""
        call = self.held.find(CALL) if self.tools else -1
        self.in_call = call >= 0
        ready = call if self.in_call else len(self.held) if self.stopped else len(self.held) - self._begun()
        text, self.held = self.held[:ready], self.held[ready:]
        return text

    def _begun(self) -> int:
        """Characters at the end of `held` that a mark may begin with."""
        longest = max((len(mark) for mark in self.marks), default=1) - 1
        for size in range(min(longest, len(self.held)), 0, -1):
            if any(mark.startswith(self.held[-size:]) for mark in self.marks):
                return size
        return 0

    def end(self) -> tuple[str, tuple[dict[str, Any], ...], str]:
        """The rest of the text, the tool calls, and why it ended."""
        calls = self.last.tool_calls if self.in_call and not self.stopped else ()
        text, self.held = ("" if calls else self.held), ""
        return text, calls, "tool_calls" if calls else "stop" if self.stopped else self.last.finish or "stop"


@dataclass
class Reply:
    """The frame of one response: its id, its time, and the model's name as it was asked for."""

    request: ChatRequest
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chat = self.request.chat
        name = f"chat.completion{kind}" if chat else "text_completion"
        ident = f"{'chatcmpl' if chat else 'cmpl'}-{self.id}"
        return {
            "id": ident,
            "object": name,
            "created": self.created,
            "model": self.request.model,
            "choices": choices,
        }

    def whole(self, choices: Sequence[tuple[Choice, str]]) -> dict[str, Any]:
        """The response that is not a stream, of each choice and the text that it has given so far."""
        made = []
        for index, (choice, text) in enumerate(choices):
            rest, calls, reason = choice.end()
            text += rest
            end = {"index": index, "logprobs": choice.last.logprobs, "finish_reason": reason}
            if not self.request.chat:
                made.append(end | {"text": text})
                continue
            content = None if calls and not text.strip() else text
            message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
            if calls:
                message["tool_calls"] = list(calls)
            made.append(end | {"message": message})
        return self._frame("", made) | {"usage": usage([choice for choice, _ in choices])}

    def chunk(
        self, index: int, delta: dict[str, Any], reason: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """A part of a stream. Where usage was asked for, it is null in every chunk but the last."""
        choice: dict[str, Any] = {"index": index, "logprobs": logprobs, "finish_reason": reason}
        choice |= {"delta": delta} if self.request.chat else {"text": delta.get("content", "")}
        return self._frame(".chunk", [choice]) | ({"usage": None} if self.request.include_usage else {})

    def begin(self, index: int) -> list[dict[str, Any]]:
        """What comes before the text of a choice."""
        return [self.chunk(index, {"role": "assistant", "content": ""})] if self.request.chat else []

    def part(self, index: int, text: str, logprobs: dict[str, Any] | None) -> list[dict[str, Any]]:
        """Text of a choice, where there is any."""
        return [self.chunk(index, {"content": text}, None, logprobs)] if text or logprobs else []

    def end(self, index: int, choice: Choice) -> list[dict[str, Any]]:
        """What comes after it: the rest, tool calls, the reason."""
        rest, calls, reason = choice.end()
        chunks = self.part(index, rest, None)
        if calls:
            numbered = [{"index": number, **call} for number, call in enumerate(calls)]
            chunks.append(self.chunk(index, {"tool_calls": numbered}))
        return [*chunks, self.chunk(index, {}, reason)]

    def usage(self, choices: Sequence[Choice]) -> list[dict[str, Any]]:
        """The last chunk of a stream that was asked for usage."""
        return [self._frame(".chunk", []) | {"usage": usage(choices)}] if self.request.include_usage else []


def usage(choices: Sequence[Choice]) -> dict[str, int]:
    """Tokens of the prompt, which all choices share, and of the answers."""
    prompt, answers = choices[0].last.prompt_tokens, sum(choice.last.completion_tokens for choice in choices)
    return {"prompt_tokens": prompt, "completion_tokens": answers, "total_tokens": prompt + answers}
