"""Turns an engine's pieces into the API's responses: text up to a stop text, tool calls, chunks, usage.

api.py calls it. It needs no engine and no web framework.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.serve.request import ChatRequest

CALL = "<tool_call>"  # Qwen2.5's beginning of a tool call; if the engine parses a call from it, it is no content


@dataclass(frozen=True)
class AnswerPiece:
    """One piece from an engine: a whole answer, or a part of a streamed one."""

    text: str
    finish: str | None = None  # "stop" or "length" in the last piece
    prompt_tokens: int = 0
    completion_tokens: int = 0  # of all pieces so far
    tool_calls: tuple[dict[str, Any], ...] = ()  # in the last piece
    logprobs: dict[str, Any] | None = None


class Choice:
    """One answer under way: send what `add` returns for each piece, and at the end what `end` returns."""

    def __init__(self, stops: Sequence[str], tools: bool) -> None:
        self.stops = tuple(stops)
        self.marks = (*self.stops, CALL) if tools else self.stops
        self.tools = tools
        self.held = ""  # text that may begin a stop text or a tool call
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
        """How many characters at the end of `held` may be the beginning of a mark."""
        longest = max((len(mark) for mark in self.marks), default=1) - 1
        for size in range(min(longest, len(self.held)), 0, -1):
            if any(mark.startswith(self.held[-size:]) for mark in self.marks):
                return size
        return 0

    def end(self) -> tuple[str, tuple[dict[str, Any], ...], str]:
        """The rest of the text, the tool calls, and the API's finish_reason."""
        calls = self.last.tool_calls if self.in_call and not self.stopped else ()
        text, self.held = ("" if calls else self.held), ""
        return text, calls, "tool_calls" if calls else "stop" if self.stopped else self.last.finish or "stop"


@dataclass
class Reply:
    """One response: its id, its time, and the objects that the API sends."""

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
        """The whole response, if it is not a stream. `choices`: each choice with the text that `add` returned."""
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
        """A chunk of a stream. If the client asked for usage, it is null in every chunk but the last.

        Args:
            index: The number of the choice.
            delta: What is new, in the form of a chat's chunk.
            reason: The finish_reason, in the last chunk of a choice.
            logprobs: The log-probabilities of the new tokens.
        """
        choice: dict[str, Any] = {"index": index, "logprobs": logprobs, "finish_reason": reason}
        choice |= {"delta": delta} if self.request.chat else {"text": delta.get("content", "")}
        return self._frame(".chunk", [choice]) | ({"usage": None} if self.request.include_usage else {})

    def begin(self, index: int) -> list[dict[str, Any]]:
        """The chunks before the text of a choice."""
        return [self.chunk(index, {"role": "assistant", "content": ""})] if self.request.chat else []

    def part(self, index: int, text: str, logprobs: dict[str, Any] | None) -> list[dict[str, Any]]:
        """The chunk with new text of a choice; none if there is no text."""
        return [self.chunk(index, {"content": text}, None, logprobs)] if text or logprobs else []

    def end(self, index: int, choice: Choice) -> list[dict[str, Any]]:
        """The chunks that end a choice: the rest of its text, tool calls, the finish_reason."""
        rest, calls, reason = choice.end()
        chunks = self.part(index, rest, None)
        if calls:
            numbered = [{"index": number, **call} for number, call in enumerate(calls)]
            chunks.append(self.chunk(index, {"tool_calls": numbered}))
        return [*chunks, self.chunk(index, {}, reason)]

    def usage(self, choices: Sequence[Choice]) -> list[dict[str, Any]]:
        """The last chunk of a stream, if the client asked for usage."""
        return [self._frame(".chunk", []) | {"usage": usage(choices)}] if self.request.include_usage else []


def usage(choices: Sequence[Choice]) -> dict[str, int]:
    """The tokens of the prompt, which all choices share, and of all answers."""
    prompt, answers = choices[0].last.prompt_tokens, sum(choice.last.completion_tokens for choice in choices)
    return {"prompt_tokens": prompt, "completion_tokens": answers, "total_tokens": prompt + answers}
