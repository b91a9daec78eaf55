"""The endpoint's HTTP API in front of either engine: OpenAI's requests in, OpenAI's responses out.

Every request goes through request.py, every answer through answer.py. An engine is one function, `answers`: qwen2's is
in fast/client.py, ms-swift's in plugin.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from finetune.serve.answer import AnswerPiece, Choice, Reply
from finetune.serve.fields import Refused, shown
from finetune.serve.guard import UNUSABLE, error_body, leaf
from finetune.serve.page.routes import Page
from finetune.serve.page.routes import routes as page_routes
from finetune.serve.request import ChatRequest, parse, regular

# answers(request, number of the choice): the pieces of one answer; a single piece if it is not a stream.
Engine = Callable[[ChatRequest, int], AsyncIterator[AnswerPiece]]
PATHS = "/v1/chat/completions, /v1/completions, /v1/models and /health"
LOCAL_PAGES = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"


@dataclass(frozen=True)
class Api:
    """The handlers of one endpoint; `app` describes the fields."""

    engine: Engine
    systems: Mapping[str, str | None]
    created: int
    owner: str
    able: Collection[str] = ()
    unusable: tuple[type[Exception], ...] = UNUSABLE

    async def health(self, _: HttpRequest) -> Response:
        """200: the port opens only when the model is loaded."""
        return Response(status_code=200)

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.created, "owned_by": self.owner}

    async def models(self, _: HttpRequest) -> Response:
        """The models that a request can name."""
        return JSONResponse({"object": "list", "data": [self._model(name) for name in self.systems]})

    async def model(self, http: HttpRequest) -> Response:
        """One of them."""
        name = http.path_params["name"]
        if name not in self.systems:
            return error(404, f"model {shown(name)} is not served here: use one of {', '.join(self.systems)}", "model")
        return JSONResponse(self._model(name))

    async def chat(self, http: HttpRequest) -> Response:
        """/v1/chat/completions."""
        return await self._answer(http, True)

    async def completion(self, http: HttpRequest) -> Response:
        """/v1/completions: the prompt is taken as a user's message."""
        return await self._answer(http, False)

    async def _answer(self, http: HttpRequest, chat: bool) -> Response:
        try:
            request = regular(parse(await http.body()), self.systems, chat, self.able)
            if not request.stream:
                return JSONResponse(await _while_connected(http, self._whole(request)))
            chunks = self._chunks(request)
            # Before the first piece, an error can still be sent as a response with its own status.
            first = await _while_connected(http, anext(chunks))
        except Refused as refused:
            return error(refused.status, refused.message, refused.param)
        except Exception as failed:
            return failure(http.url.path, failed, self.unusable)
        events = _events(http.url.path, first, chunks, self.unusable)
        return StreamingResponse(events, media_type="text/event-stream")

    async def _whole(self, request: ChatRequest) -> dict[str, Any]:
        async def one(number: int) -> tuple[Choice, str]:
            choice = Choice(request.stop, bool(request.tools))
            text = ""
            async for piece in self.engine(request, number):
                text += choice.add(piece)
            return choice, text

        tasks = [asyncio.create_task(one(number)) for number in range(request.n)]
        try:
            return Reply(request).whole(await asyncio.gather(*tasks))
        finally:
            for task in tasks:  # if one has failed, no one will read the others
                task.cancel()

    async def _chunks(self, request: ChatRequest) -> AsyncIterator[dict[str, Any]]:
        """The chunks of a stream: those of all choices, in the order in which they come."""
        queue: asyncio.Queue[tuple[int, AnswerPiece | None, BaseException | None]] = asyncio.Queue()

        async def one(number: int) -> None:
            try:
                async for piece in self.engine(request, number):
                    queue.put_nowait((number, piece, None))
                queue.put_nowait((number, None, None))
            except Exception as failed:
                queue.put_nowait((number, None, failed))

        reply, choices = Reply(request), [Choice(request.stop, bool(request.tools)) for _ in range(request.n)]
        tasks = [asyncio.create_task(one(number)) for number in range(request.n)]
        begun: set[int] = set()
        try:
            ended = 0
            while ended < request.n:
                number, piece, failed = await queue.get()
                if failed:
                    raise failed
                if number not in begun:
                    begun.add(number)
                    for chunk in reply.begin(number):
                        yield chunk
                text = choices[number].add(piece) if piece else ""
                for chunk in reply.part(number, text, piece.logprobs if piece else None):
                    yield chunk
                if piece is None:
                    ended += 1
                    for chunk in reply.end(number, choices[number]):
                        yield chunk
            for chunk in reply.usage(choices):
                yield chunk
        finally:
            for task in tasks:
                task.cancel()


async def _while_connected(http: HttpRequest, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """The result of `work`. It is cancelled if the client disconnects."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refused("the client has closed the connection", status=499)
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()


async def _disconnected(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _events(
    path: str, first: dict[str, Any], chunks: AsyncIterator[dict[str, Any]], unusable: tuple[type[Exception], ...]
) -> AsyncIterator[str]:
    """Server-sent events. The status has been sent, so an error is sent as an event, which OpenAI's client raises."""
    yield _event(first)
    try:
        async for chunk in chunks:
            yield _event(chunk)
    except Exception as failed:
        told = failure(path, failed, unusable)
        yield f"data: {bytes(told.body).decode()}\n\n"
        return
    yield "data: [DONE]\n\n"


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def error(status: int, message: str, param: str | None = None, code: str = "invalid_request") -> JSONResponse:
    """An error in the API's form; guard.error_body describes the arguments."""
    return JSONResponse(error_body(status, message, code, param), status)


def failure(path: str, failed: BaseException, unusable: tuple[type[Exception], ...]) -> JSONResponse:
    """Log an engine's exception and turn it into a response.

    Args:
        path: The request's path.
        failed: The exception.
        unusable: The exceptions that mean an unusable request: 400. All others are 500.
    """
    cause = leaf(failed)
    text = (str(cause) or type(cause).__name__).strip()
    print(f"serve: {path}: {type(cause).__name__}: {text[:500]}", file=sys.stderr, flush=True)
    if isinstance(cause, unusable):
        return error(400, text)
    return error(500, text, code="server_error")


async def unknown(http: HttpRequest, _: Exception) -> Response:
    """The answer to an unknown path."""
    what = "embeddings are not supported" if "embeddings" in http.url.path else "no such path"
    return error(404, f"{what}: this server answers {PATHS}", code="not_found")


async def wrong_method(http: HttpRequest, failed: Any) -> Response:
    """OPTIONS lists the methods of a path; any other wrong method is refused."""
    allowed = (failed.headers or {}).get("Allow", "GET, POST")
    if http.method == "OPTIONS":
        return Response(status_code=204, headers={"Allow": f"{allowed}, OPTIONS"})
    told = error(405, f"{http.method} is not allowed here: send {allowed}", code="method_not_allowed")
    told.headers["Allow"] = allowed
    return told


def app(
    engine: Engine,
    systems: Mapping[str, str | None],
    created: int,
    owner: str = "mirror",
    origins: Sequence[str] = (),
    inner: Sequence[Middleware] = (),
    lifespan: Callable[[Any], contextlib.AbstractAsyncContextManager[None]] | None = None,
    page: Page | None = None,
    able: Collection[str] = (),
    unusable: tuple[type[Exception], ...] = UNUSABLE,
    more: Sequence[Route] = (),
) -> Starlette:
    """The endpoint as an ASGI app.

    Args:
        engine: Answers the requests.
        systems: {model name: the system prompt of a conversation that has none}.
        created: When the models were loaded, in seconds since 1970.
        owner: `owned_by` of the models.
        origins: Origins of web pages that may send requests, besides those of this machine; `*` allows all.
        inner: Middleware after CORS. CORS must come first: a browser sends OPTIONS without a key.
        lifespan: Starlette's: runs at the start and the end of the app.
        page: The page at `/`; None leaves it out.
        able: Of the fields that only some engines support, those that this one does.
        unusable: The exceptions of the engine that mean an unusable request.
        more: Further paths.
    """
    api = Api(engine, systems, created, owner, able, unusable)
    routes = [
        *(Route(path, api.health, methods=["GET"]) for path in ("/health", "/health/")),
        Route("/ping", api.health, methods=["GET", "POST"]),
        Route("/v1/models", api.models, methods=["GET"]),
        Route("/v1/models/{name:path}", api.model, methods=["GET"]),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/completions", api.completion, methods=["POST"]),
        *(page_routes(page, systems) if page else []),
        *more,
    ]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_origin_regex=LOCAL_PAGES,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
    )
    handlers: Any = {404: unknown, 405: wrong_method}
    made = Starlette(routes=routes, middleware=[cors, *inner], exception_handlers=handlers, lifespan=lifespan)
    made.router.redirect_slashes = False
    return made
