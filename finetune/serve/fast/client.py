"""The endpoint's side of the engine: sends requests to the worker as token ids, turns tokens of answers into text.

A server has one Client, in its event loop. No torch is imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import queue
import re
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from finetune.serve.answer import AnswerPiece
from finetune.serve.fast.settings import EndpointSettings
from finetune.serve.request import ChatRequest
from qwen2.chat import Tokenizer
from qwen2.serving.request import STOP, NextToken
from qwen2.serving.request import Request as EngineRequest
from qwen2.serving.request import SamplingParams as Sampling

LONG = 20_000  # characters; a longer prompt is tokenized in a thread, so that it does not hold up other requests
CALLS = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


class PendingAnswer:
    """One answer under way, with the tokens that have arrived and were not taken yet."""

    def __init__(self, ident: int, eager: bool) -> None:
        self.id, self.eager = ident, eager  # eager: wake up at every token, not only at the end
        self.said: list[Any] = []
        self.finish: str | None = None
        self.failed: Exception | None = None
        self.news = asyncio.Event()

    def take(self) -> list[Any]:
        """The tokens since the last call."""
        said, self.said = self.said, []
        self.news.clear()
        return said


class Client:
    """Sends requests to the worker at the other end of a pipe.

    Args:
        pipe: This end of the pipe.
        settings: The endpoint's settings, for the defaults of a request.
        tokenizer: The model's.
        lost: Called when the other end has closed.
    """

    def __init__(
        self, pipe: Connection, settings: EndpointSettings, tokenizer: Tokenizer, lost: Callable[[], None]
    ) -> None:
        self.pipe, self.settings, self.tokenizer, self.lost = pipe, settings, tokenizer, lost
        self.numbers = {name: number for number, name in enumerate(settings.names)}
        self.asked: dict[int, PendingAnswer] = {}
        self.ids = itertools.count(1)
        self.load: dict[str, int] = {}  # the engine's latest figures
        self.gone = False
        # A thread sends. If a full pipe blocked the event loop, nothing would read the other direction.
        self.outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._last: tuple[ChatRequest, asyncio.Future[list[int]]] | None = None

    def begin(self) -> None:
        """Start to listen, in the running event loop."""
        asyncio.get_running_loop().add_reader(self.pipe.fileno(), self._hear)
        threading.Thread(target=self._send, name="asks", daemon=True).start()

    def end(self) -> None:
        """Close the pipe, which ends the worker."""
        if not self.gone:
            self.gone = True
            self.outbox.put(None)
            asyncio.get_running_loop().remove_reader(self.pipe.fileno())
            self.pipe.close()

    def _send(self) -> None:
        with contextlib.suppress(OSError):  # _hear reports that the worker has ended
            while (message := self.outbox.get()) is not None:
                self.pipe.send(message)

    # ---- messages of the worker

    def _hear(self) -> None:
        try:
            while self.pipe.poll(0):
                self._heard(self.pipe.recv())
        except (EOFError, OSError):
            self.end()
            for asked in self.asked.values():
                asked.failed = RuntimeError("the engine has ended: the server's log says why")
                asked.news.set()
            self.lost()

    def _heard(self, message: tuple[Any, ...]) -> None:
        if message[0] == "refused":
            if asked := self.asked.get(message[1]):
                asked.failed = ValueError(message[2])
                asked.news.set()
            return
        _, news, self.load = message
        for said in news:
            asked = self.asked.get(said.id)
            if asked is None:  # the client has left
                continue
            asked.said.append(said)
            asked.finish = said.finish
            if asked.eager or said.finish:
                asked.news.set()

    # ---- one answer

    async def answers(self, request: ChatRequest, number: int) -> AsyncIterator[AnswerPiece]:
        """The pieces of one answer. If the client leaves, the engine stops it too.

        Args:
            request: The request.
            number: The number of the choice.
        """
        prompt = await self._prompt(request)
        if self.gone:
            raise RuntimeError("the engine has ended: the server's log says why")
        asked = PendingAnswer(next(self.ids), request.stream or bool(request.stop))
        self.asked[asked.id] = asked
        text = AnswerText(self.tokenizer, request, len(prompt))
        try:
            self.outbox.put(("ask", self._for_engine(asked.id, prompt, request, number)))
            while True:
                await asked.news.wait()
                if asked.failed:
                    raise asked.failed
                finish = asked.finish
                piece = text.add(asked.take(), finish)
                yield piece
                if piece.finish:
                    return
        finally:
            del self.asked[asked.id]
            if asked.finish is None and not asked.failed and not self.gone:
                self.outbox.put(("cancel", asked.id))

    async def _prompt(self, request: ChatRequest) -> list[int]:
        """The token ids of a request's conversation; tokenized once for all choices."""
        if self._last is None or self._last[0] is not request:
            work = asyncio.ensure_future(self._encoded(request))
            self._last = request, work
        return await asyncio.shield(self._last[1])

    async def _encoded(self, request: ChatRequest) -> list[int]:
        def encode() -> list[int]:
            return self.tokenizer.encode_chat(laid_out(request.messages), tools=list(request.tools) or None)

        size = len(str(request.messages)) + len(str(request.tools))
        return await asyncio.to_thread(encode) if size > LONG else encode()

    def _for_engine(self, ident: int, prompt: list[int], request: ChatRequest, number: int) -> EngineRequest:
        ours = self.settings
        settings = Sampling(
            temperature=_either(request.temperature, ours.temperature),
            top_p=_either(request.top_p, ours.top_p),
            top_k=max(0, _either(request.top_k, ours.top_k)),
            repetition_penalty=_either(request.repetition_penalty, ours.repetition_penalty),
            frequency_penalty=request.frequency_penalty,
            presence_penalty=request.presence_penalty,
            logprobs=request.top_logprobs,
        )
        seed = None if request.seed is None else request.seed + number
        limit = _either(request.max_tokens, ours.max_new_tokens)
        return EngineRequest(ident, prompt, limit, self.numbers[request.model], settings, seed)


def _either(asked: Any, default: Any) -> Any:
    return default if asked is None else asked


def laid_out(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A request's messages as the template takes them: each of the `tool_calls` becomes a separate message."""
    found = []
    for message in messages:
        calls = message.get("tool_calls", ())
        if message["content"] or not calls:
            found.append({"role": message["role"], "content": message["content"]})
        found += [{"role": "tool_call", "content": call["function"]} for call in calls]
    return found


class AnswerText:
    """Turns the tokens of one answer into text, tool calls and log-probabilities; detects stop texts.

    Args:
        tokenizer: The model's.
        request: The request that is answered.
        prompt_tokens: Tokens of the prompt, for `usage`.
    """

    def __init__(self, tokenizer: Tokenizer, request: ChatRequest, prompt_tokens: int) -> None:
        self.tokenizer, self.request, self.prompt_tokens = tokenizer, request, prompt_tokens
        self.ids: list[int] = []
        self.stream = tokenizer.stream()
        self.text = ""
        self.tail = max((len(stop) for stop in request.stop), default=1) - 1

    def add(self, said: Sequence[NextToken], finish: str | None) -> AnswerPiece:
        """The piece that these tokens make.

        Args:
            said: The new tokens.
            finish: Why the engine has ended the answer; None: it goes on.

        Returns:
            The piece. Its `finish` is set if the answer has ended, also at a stop text.
        """
        before = len(self.text)
        likely: list[dict[str, Any]] = []
        stopped = False
        for each in said:
            if each.token is None:
                continue
            self.ids.append(each.token)
            if each.logprob is not None:
                likely.append(self._logprob(each.token, *each.logprob))
            self.text += self.stream.step(each.token) or ""
            if self.request.stop and self._stopped(before):
                finish, stopped = STOP, True
                break
        if finish and not stopped:  # the stream still holds the bytes of an incomplete last character
            whole = self.tokenizer.decode(self.ids)
            self.text = whole if whole.startswith(self.text) else self.text
        return AnswerPiece(
            self.text[before:],
            finish,
            self.prompt_tokens,
            len(self.ids),
            tuple(calls_in(self.text)) if finish and self.request.tools else (),
            {"content": likely, "refusal": None} if likely else None,
        )

    def _stopped(self, before: int) -> bool:
        start = max(0, before - self.tail)
        return any(self.text.find(stop, start) >= 0 for stop in self.request.stop)

    def _logprob(self, token: int, value: float, others: Sequence[tuple[int, float]]) -> dict[str, Any]:
        made = self._token(token, value)
        others = others[: self.request.top_logprobs]
        return made | {"top_logprobs": [self._token(other, likely) for other, likely in others]}

    def _token(self, token: int, value: float) -> dict[str, Any]:
        said = self.tokenizer.token_bytes(token)
        return {"token": said.decode("utf-8", "replace"), "logprob": value, "bytes": list(said)}


def calls_in(text: str) -> Iterator[dict[str, Any]]:
    """The tool calls in an answer, in Qwen2.5's form. Anything that does not parse as a call is skipped."""
    for found in CALLS.findall(text):
        try:
            call = json.loads(found)
        except (ValueError, RecursionError):
            continue
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            continue
        arguments = call.get("arguments", {})
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        function = {"name": call["name"], "arguments": arguments}
        yield {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
