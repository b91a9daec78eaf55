"""The endpoint's paths around engines that are stubs: choices, streams, stop texts, usage, errors, CORS."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from finetune.serve import api
from finetune.serve.answer import AnswerPiece, Choice
from finetune.serve.guard import Guard
from finetune.serve.request import ChatRequest

USER = {"role": "user", "content": "你是谁?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FUNCTION = {"type": "function", "function": {"name": "f"}}


def saying(*texts: str, calls: tuple = (), finish: str = "stop", fails: Exception | None = None) -> api.Engine:
    """An engine that says these pieces, and then fails if it is to."""

    async def answers(request: ChatRequest, number: int) -> AsyncIterator[AnswerPiece]:
        parts = texts if request.stream else ("".join(texts),)
        for at, text in enumerate(parts):
            last = at == len(parts) - 1
            yield AnswerPiece(text, finish if last else None, 7, at + 1, calls if last else ())
        if fails:
            raise fails

    return answers


def client(engine: api.Engine, **options: Any) -> TestClient:
    """A client of the endpoint around that engine."""
    return TestClient(api.app(engine, {"base": "x", "a": "y"}, 0, **options), raise_server_exceptions=False)


def ask(engine: api.Engine, path: str = "/v1/chat/completions", **fields: Any) -> Any:
    """The response to a request; of a stream, its events."""
    body = {"model": "a", **({"messages": [USER]} if "chat" in path else {"prompt": "x"}), **fields}
    done = client(engine).post(path, json=body)
    if not fields.get("stream") or done.status_code != 200:
        return done.json()
    events = done.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""] and done.headers["content-type"].startswith("text/event-stream")
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def text(chunks: list[dict], index: int = 0) -> str:
    """The text of one choice in a stream."""
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def test_an_answer_in_the_apis_form():
    done = ask(saying("我是", "谁"))
    assert done["model"] == "a" and done["object"] == "chat.completion" and done["id"].startswith("chatcmpl-")
    message = {"role": "assistant", "content": "我是谁", "refusal": None}
    assert done["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    assert done["usage"] == {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}


@pytest.mark.parametrize("options", [None, {"include_usage": False}])
def test_a_stream_has_no_usage_where_none_was_asked_for(options):
    chunks = ask(saying("我是", "谁"), stream=True, stream_options=options)
    assert text(chunks) == "我是谁"
    assert all("usage" not in chunk and chunk["model"] == "a" for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]


def test_usage_comes_in_one_last_chunk():
    chunks = ask(saying("我是", "谁"), stream=True, stream_options={"include_usage": True})
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 4
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["total_tokens"] == 9


@pytest.mark.parametrize("stream", [False, True])
def test_choices(stream):
    async def numbered(request: ChatRequest, number: int) -> AsyncIterator[AnswerPiece]:
        yield AnswerPiece(f"answer {number}", "length", 7, 2)

    done = ask(numbered, n=3, stream=stream, **({"stream_options": {"include_usage": True}} if stream else {}))
    if stream:
        assert [text(done, index) for index in range(3)] == ["answer 0", "answer 1", "answer 2"]
        assert done[-1]["usage"] == {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}
    else:
        assert [each["message"]["content"] for each in done["choices"]] == ["answer 0", "answer 1", "answer 2"]
        assert [each["index"] for each in done["choices"]] == [0, 1, 2]
        assert done["usage"] == {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("pieces", "stop", "said"),
    [
        (("我由 CSDN 开发和维护",), "开发", "我由 CSDN "),
        (("我由 CSDN 开", "发和", "维护"), "开发", "我由 CSDN "),
        (("我由 CSDN 开", "始"), "开发", "我由 CSDN 开始"),
        (("a", "a", "b", "c"), ["ab", "bc"], "a"),
        (("abc",), ["c", "b"], "a"),
        (("ab", "c"), ["bcd", "c"], "ab"),
        (("开发",), "开发", ""),
    ],
)
def test_an_answer_ends_before_the_stop_text(pieces, stop, said, stream):
    done = ask(saying(*pieces, finish="length"), stop=stop, stream=stream)
    reason = "stop" if said != "我由 CSDN 开始" else "length"
    if stream:
        assert text(done) == said and done[-1]["choices"][0]["finish_reason"] == reason
    else:
        assert done["choices"][0]["message"]["content"] == said and done["choices"][0]["finish_reason"] == reason


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_call_is_no_content(stream):
    said = ("我来查。<tool", '_call>\n{"name": "f"}', "\n</tool_call>")
    done = ask(saying(*said, calls=(CALL,)), tools=[FUNCTION], stream=stream)
    if stream:
        assert text(done) == "我来查。" and done[-1]["choices"][0]["finish_reason"] == "tool_calls"
        (calls,) = [c["delta"]["tool_calls"] for chunk in done for c in chunk["choices"] if "tool_calls" in c["delta"]]
        assert calls == [{"index": 0, **CALL}]
    else:
        (choice,) = done["choices"]
        assert choice["message"] == {"role": "assistant", "content": "我来查。", "refusal": None, "tool_calls": [CALL]}
        assert choice["finish_reason"] == "tool_calls"
    broken = ask(saying(*said), tools=[FUNCTION], stream=stream)  # nothing could be read from it: it is text
    assert (text(broken) if stream else broken["choices"][0]["message"]["content"]) == "".join(said)


def test_text_is_held_only_while_it_may_begin_a_stop_text():
    choice = Choice(("abcd",), False)
    assert [choice.add(AnswerPiece(each)) for each in ("xab", "c", "e", "ab")] == ["x", "", "abce", ""]
    assert choice.end()[0] == "ab"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("error", "status"), [(ValueError("too long"), 400), (RuntimeError("CUDA error"), 500)])
def test_an_engine_that_fails_is_an_error_in_json(error, status, stream, capsys):
    async def fails(request: ChatRequest, number: int) -> AsyncIterator[AnswerPiece]:
        raise error
        yield AnswerPiece("")

    body = {"model": "a", "messages": [USER], "stream": stream}
    done = client(fails).post("/v1/chat/completions", json=body)
    assert done.status_code == status and done.json()["error"]["message"] == str(error)
    assert f"serve: /v1/chat/completions: {type(error).__name__}: {error}" in capsys.readouterr().err


def test_a_stream_that_fails_later_says_so_in_an_event():
    body = {"model": "a", "messages": [USER], "stream": True}
    engine = saying("a", "b", fails=RuntimeError("CUDA error"))
    events = client(engine).post("/v1/chat/completions", json=body).text.split("\n\n")
    assert json.loads(events[-2].removeprefix("data: "))["error"]["message"] == "CUDA error"
    assert "[DONE]" not in events[-2]


def test_completions():
    done = ask(saying("你", "好"), "/v1/completions")
    assert done["object"] == "text_completion" and done["id"].startswith("cmpl-")
    assert done["choices"] == [{"index": 0, "logprobs": None, "finish_reason": "stop", "text": "你好"}]
    chunks = ask(saying("你", "好"), "/v1/completions", stream=True)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "你好"


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("POST", "/v1/embeddings", 404, "embeddings are not supported"),
        ("POST", "/v1/responses", 404, "no such path"),
        ("POST", "/infer/", 404, "no such path"),
        ("GET", "/", 404, "/v1/chat/completions"),
        ("GET", "/v1/models/gpt-4", 404, '"gpt-4" is not served here'),
        ("GET", "/v1/chat/completions", 405, "GET is not allowed here: send POST"),
        ("DELETE", "/v1/models", 405, "DELETE"),
    ],
)
def test_paths_that_are_none(method, path, status, says):
    done = client(saying("x")).request(method, path, json=None if method == "GET" else {"model": "a", "input": "x"})
    assert done.status_code == status and says in done.json()["error"]["message"]


def test_the_models():
    api = client(saying("x"), owner="me")
    assert [(each["id"], each["owned_by"]) for each in api.get("/v1/models").json()["data"]] == [
        ("base", "me"),
        ("a", "me"),
    ]
    assert api.get("/v1/models/a").json()["id"] == "a"
    assert api.get("/health").status_code == api.post("/ping").status_code == 200


PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


@pytest.mark.parametrize(
    ("origin", "origins", "taken"),
    [
        ("http://localhost:5173", (), True),
        ("http://127.0.0.1", (), True),
        ("https://example.org", (), False),
        ("http://localhost.example.org", (), False),
        ("https://example.org", ("https://example.org",), True),
        ("https://example.org", ("*",), True),
    ],
)
def test_a_page_asks_without_a_key_whether_it_may_ask(origin, origins, taken):
    api = client(saying("x"), origins=origins, inner=[Middleware(Guard, key="k3y")])
    done = api.options("/v1/chat/completions", headers={"origin": origin, **PREFLIGHT})
    assert (done.status_code == 200) == taken and ("access-control-allow-origin" in done.headers) == taken
    headers = {"origin": origin, "authorization": "Bearer k3y"}
    done = api.post("/v1/chat/completions", json={"model": "a", "messages": [USER]}, headers=headers)
    assert done.status_code == 200 and ("access-control-allow-origin" in done.headers) == taken


def test_options_says_what_a_path_takes():
    api = client(saying("x"), inner=[Middleware(Guard, key="k3y")])
    done = api.options("/v1/chat/completions")
    assert done.status_code == 204 and done.headers["allow"] == "POST, OPTIONS"
