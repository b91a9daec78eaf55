"""ASGI middleware in front of the endpoint: checks the key and the size of a request, sends errors as JSON, counts.

plugin.py adds it to ms-swift's server, fast/server.py to its own. It needs only the standard library, so it can be
tested without ms-swift.
"""

from __future__ import annotations

import hmac
import json
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from common.i18n import _

if TYPE_CHECKING:
    from finetune.serve.metrics import Counts

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# Paths of readiness probes, which need no key. They tell the names of the models and nothing else.
OPEN = frozenset({"/health", "/health/", "/ping", "/v1/models"})
# ms-swift raises these for a request that it cannot answer. Anything else is a defect.
UNUSABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
GONE = 499  # nginx's status for a client that has left; it is counted if no other was sent
# The page's files, which need no key: a browser cannot send one before the page has asked for it.
PAGE = frozenset({"/", "/page/chat.css", "/page/chat.js", "/page/api.js", "/page/words.js"})
# The rest of a refused body is read, up to this many bytes. Else the client sees a broken connection, not the answer.
DRAIN_BYTES = 256 * 2**20


class Guard:
    """Wraps an ASGI app.

    Args:
        app: The app.
        key: The API key; "" asks for none.
        max_body: The longest request body, in bytes.
        ready: What is printed when the server is ready.
        counts: Counts the requests.
    """

    def __init__(
        self, app: App, key: str = "", max_body: int = 2**20, ready: str = "serve: ready", counts: Counts | None = None
    ) -> None:
        self.app, self.key, self.max_body, self.ready, self.counts = app, key.encode(), max_body, ready, counts
        self.begun = self.ended = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Handle one connection scope: a request, or the server's start and end."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, self._telling(send))
        elif scope["type"] == "http":
            self.begun += 1
            status, began = GONE, time.monotonic()
            if self.counts:
                self.counts.in_flight = self.begun - self.ended

            async def watch(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await self._request(scope, receive, watch)
            finally:
                self.ended += 1
                if self.counts:
                    self.counts.in_flight = self.begun - self.ended
                    self.counts.ended(scope["path"], status, time.monotonic() - began)
        else:
            await self.app(scope, receive, send)

    def _telling(self, send: Send) -> Send:
        """Print on stderr that the server is ready, and at its end how many requests it has answered."""

        async def tell(message: Message) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                print(self.ready, file=sys.stderr, flush=True)
            elif message["type"] == "lifespan.shutdown.complete":
                text = _("serve: {ended} requests answered, {open} in flight").format(
                    ended=self.ended, open=self.begun - self.ended
                )
                print(text, file=sys.stderr, flush=True)

        return tell

    async def _request(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        asks = scope["method"] != "OPTIONS"  # OPTIONS only lists the methods of a path
        if (
            self.key
            and asks
            and scope["path"] not in OPEN | PAGE
            and not self._knows(headers.get(b"authorization", b""))
        ):
            await self._drain(receive)
            message = "this server asks for an API key: send `Authorization: Bearer KEY` with the right one"
            await refuse(send, 401, message, "invalid_api_key", [(b"www-authenticate", b"Bearer")])
            return
        body = await self._read(receive)
        if body is None:
            message = f"the request is longer than {self.max_body // 1024} KiB: shorten the prompt"
            await refuse(send, 413, message, "request_too_large")
            return
        await self._answer(scope, _Replay(body, receive), send)

    def _knows(self, header: bytes) -> bool:
        scheme, _, given = header.partition(b" ")
        return hmac.compare_digest(given.strip(), self.key) and scheme.lower() == b"bearer"

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body; None if it is too long."""
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            more = message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > self.max_body:
                if more:
                    await self._drain(receive)
                return None
            parts.append(message.get("body", b""))
        return b"".join(parts)

    async def _drain(self, receive: Receive) -> None:
        size, more = 0, True
        while more and size < DRAIN_BYTES:
            message = await receive()
            more = message["type"] == "http.request" and message.get("more_body", False)
            size += len(message.get("body", b""))

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Run the app. The status is held back until the first piece of body, so an error before it gets its own."""
        held: Message | None = None
        sent = streaming = False

        async def hold(message: Message) -> None:
            nonlocal held, sent, streaming
            if message["type"] == "http.response.start":
                held = message
                streaming = any(
                    name.lower() == b"content-type" and value.startswith(b"text/event-stream")
                    for name, value in message.get("headers", [])
                )
                return
            if held is not None:
                await send(held)
                held, sent = None, True
            await send(message)

        try:
            await self.app(scope, receive, hold)
        except Exception as error:
            cause = leaf(error)
            text = str(cause) or type(cause).__name__
            print(f"serve: {scope['method']} {scope['path']}: {type(cause).__name__}: {text[:500]}", file=sys.stderr)
            if not sent:
                bad = isinstance(cause, UNUSABLE)
                await refuse(send, 400 if bad else 500, text, "invalid_request" if bad else "server_error")
            elif streaming:
                # The status has been sent. In a stream, an error is sent as an event, which OpenAI's client raises.
                event = {"error": {"message": text, "type": "server_error", "code": "server_error"}}
                data = f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()
                await send({"type": "http.response.body", "body": data, "more_body": False})
            else:
                raise


class _Replay:
    """receive() for a request whose body has been read: gives the body once, then the connection's messages."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self.body: bytes | None = body
        self.receive = receive

    async def __call__(self) -> Message:
        if self.body is not None:
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": False}
        return await self.receive()


def leaf(error: BaseException) -> BaseException:
    """The first error within exception groups, in which anyio wraps the errors of tasks."""
    while getattr(error, "exceptions", None):
        error = error.exceptions[0]  # type: ignore[attr-defined]
    return error


def error_body(status: int, message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's form. `message` is repeated at the top, where ms-swift's clients look for it.

    Args:
        status: The HTTP status.
        message: What is wrong and what to do.
        code: The API's error code.
        param: The field of the request.
    """
    kind = "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "code": code, "param": param}
    return {"error": error, "message": message, "object": "error"}


async def refuse(
    send: Send, status: int, message: str, code: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Send an error as the whole response; `error_body` describes the arguments, `headers` are added."""
    body = json.dumps(error_body(status, message, code), ensure_ascii=False).encode()
    fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
