"""The guard in front of the endpoint, around small apps of every kind: key, size, errors, and what it leaves alone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from finetune.serve.guard import Guard, leaf


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers with the body that it got."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def ask(guard: Guard, path: str = "/v1/chat/completions", body: list[bytes] | None = None, key: str | None = None):
    """(status, headers, body, messages received) of one POST whose body comes in these pieces."""
    pieces = [b"{}"] if body is None else list(body)
    taken, sent = [], []

    async def receive() -> dict[str, Any]:
        if not pieces:
            return {"type": "http.disconnect"}
        piece = pieces.pop(0)
        taken.append(piece)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"Authorization", key.encode())] if key is not None else []
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    asyncio.run(guard(scope, receive, send))
    assert [message["type"] for message in sent].count("http.response.start") == 1
    answer = b"".join(message["body"] for message in sent if message["type"] == "http.response.body")
    return sent[0]["status"], dict(sent[0]["headers"]), answer, taken


@pytest.mark.parametrize("key", ["Bearer k3y", "bearer k3y"])
def test_the_right_key(key):
    assert ask(Guard(echo, "k3y"), key=key)[::2] == (200, b"{}")


@pytest.mark.parametrize(
    "key", [None, "", "k3y", "Bearer", "Bearer ", "Bearer k3", "Bearer k3yy", "Basic k3y", "Bearer é"]
)
def test_no_key_or_a_wrong_one_is_401(key):
    status, headers, answer, _ = ask(Guard(echo, "k3y"), key=key)
    assert status == 401 and headers[b"www-authenticate"] == b"Bearer"
    error = json.loads(answer)["error"]
    assert error["code"] == "invalid_api_key" and "Authorization: Bearer" in error["message"]
    assert "k3y" not in error["message"]


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/ping"])
def test_probes_need_no_key(path):
    assert ask(Guard(echo, "k3y"), path)[0] == 200


@pytest.mark.parametrize(
    "path", ["/v1/models/", "//health", "/infer/", "/docs", "/openapi.json", "/v1/completions", "/page/setup.json"]
)
def test_all_else_does(path):
    assert ask(Guard(echo, "k3y"), path)[0] == 401


def test_without_a_key_none_is_asked_for():
    assert ask(Guard(echo))[0] == 200


def test_a_body_arrives_as_it_was_sent():
    assert ask(Guard(echo, max_body=9), body=[b"abc", b"", b"def", b"ghi"])[2] == b"abcdefghi"
    assert ask(Guard(echo), body=[b""])[2] == b""


def test_a_long_body_is_413_and_is_read_to_its_end():
    status, _, answer, taken = ask(Guard(echo, max_body=2048), body=[b"x" * 1024] * 20)
    assert status == 413 and "longer than 2 KiB: shorten the prompt" in json.loads(answer)["error"]["message"]
    assert len(taken) == 20  # or the client would see a broken connection


def test_a_body_without_the_key_is_read_to_its_end_too():
    status, _, _, taken = ask(Guard(echo, "k3y", max_body=2048), body=[b"x" * 1024] * 20)
    assert status == 401 and len(taken) == 20


def failing(error: BaseException, pieces: int = 0, kind: bytes = b"text/event-stream") -> Any:
    """An app that begins a response, sends so many pieces of it, and fails."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        for number in range(pieces):
            await send({"type": "http.response.body", "body": f"data: {number}\n\n".encode(), "more_body": True})
        raise error

    return app


class Group(Exception):
    """An exception group, as Python 3.10 does not have it yet."""

    def __init__(self, *exceptions: BaseException) -> None:
        super().__init__("unhandled errors in a TaskGroup")
        self.exceptions = exceptions


def test_a_stream_that_fails_before_its_first_piece_is_a_4xx_with_the_cause(capsys):
    error = Group(Group(ValueError("Current length of row(40019) is larger than the max_length(32768).")))
    status, _, answer, _ = ask(Guard(failing(error)))
    assert status == 400 and "larger than the max_length" in json.loads(answer)["error"]["message"]
    assert "serve: POST /v1/chat/completions: ValueError: Current length" in capsys.readouterr().err


def test_a_defect_is_a_500_in_json():
    status, _, answer, _ = ask(Guard(failing(RuntimeError("CUDA error"))))
    assert status == 500 and json.loads(answer)["error"]["type"] == "server_error"


def test_a_stream_that_fails_later_says_so_in_an_event():
    status, _, answer, _ = ask(Guard(failing(RuntimeError("CUDA error"), pieces=2)))
    assert status == 200 and answer.startswith(b"data: 0\n\ndata: 1\n\ndata: ")
    assert json.loads(answer.split(b"data: ")[3])["error"]["message"] == "CUDA error"


def test_another_response_that_fails_later_breaks_the_connection():
    with pytest.raises(RuntimeError):
        ask(Guard(failing(RuntimeError("x"), pieces=1, kind=b"application/json")))


def test_it_says_when_it_is_ready_and_what_it_answered(capsys):
    guard = Guard(echo, ready="serve: ready: adapter at http://127.0.0.1:8000/v1")
    ask(guard)

    async def life(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    async def ignore(message: dict[str, Any]) -> None:
        """Nothing listens."""

    guard.app = life
    asyncio.run(guard({"type": "lifespan"}, ignore, ignore))
    assert capsys.readouterr().err.splitlines() == [
        "serve: ready: adapter at http://127.0.0.1:8000/v1",
        "serve: 1 requests answered, 0 in flight",
    ]


def test_leaf_of_an_error_that_is_no_group():
    error = ValueError("x")
    assert leaf(error) is error and leaf(Group(error)) is error
