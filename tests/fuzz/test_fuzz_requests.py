"""The endpoint on requests whose JSON is bent: types swapped, fields dropped, odd roles, unknown fields, huge numbers.

Behind the API is a stub that answers nothing of its own, and lays every request out by ms-swift's real template: what
the API takes, the template must take.
"""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import strategies as st
from starlette.testclient import TestClient

from finetune.serve import api
from finetune.serve.answer import AnswerPiece
from finetune.serve.request import ChatRequest
from tests.fuzz.mutations import mutated
from tests.fuzz.rounds import fuzz

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
USER = {"role": "user", "content": "你是谁?"}
REQUESTS: list[dict[str, Any]] = [
    {"model": "a", "messages": [USER], "max_tokens": 5, "temperature": 0.5, "stop": ["开发"], "n": 2},
    {"model": "a", "messages": [USER], "stream": True, "stream_options": {"include_usage": True}, "seed": 1},
    {
        "model": "base",
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            USER,
            {"role": "assistant", "content": None, "tool_calls": [CALL, CALL | {"id": "c2"}]},
            {"role": "tool", "tool_call_id": "c1", "content": "12"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "13"}]},
            {"role": "assistant", "content": "Action: f\nAction Input: {}"},
            USER,
        ],
        "tools": [TOOL],
        "tool_choice": "auto",
    },
    {
        "model": "base",
        "messages": [{"role": "developer", "content": "x"}, USER, {"role": "assistant", "content": "<image>"}, USER],
        "max_completion_tokens": 3,
        "response_format": {"type": "text"},
        "logprobs": True,
        "top_logprobs": 2,
        "top_p": 0.9,
        "user": "u",
        "frequency_penalty": 0,
    },
]
NAMES = sorted(
    {name for request in REQUESTS for name in request} | {"images", "functions", "logit_bias", "", "x\ud800"}
)
ROLES = ("system", "developer", "user", "assistant", "tool", "function", "tool_call", "tool_response", "", "USER")
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 10**30, -(10**400), 1e-45, 1e308, 0.5, float("nan"), float("inf"),
    "", " ", "a", "\x00", "\ud800", "😀" * 50, "x" * 5000, "<image>", "<|im_end|>", "{{QUERY}}", "<tool_call>", "null",
    [], [[]], [None], [1, 2], ["a", 1], {}, {"a": None}, {"type": "text"}, {"type": "text", "text": None},
    {"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
    {"token_ids": [1, 2]}, {"role": "user", "content": "x"}, CALL, TOOL,
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inside for place in places(each, (*path, key)))]


@st.composite
def bent(draw: st.DrawFn) -> bytes:
    """The JSON of a request with up to four of its values changed, dropped, doubled, renamed or exchanged."""
    request = copy.deepcopy(draw(st.sampled_from(REQUESTS)))
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from(places(request)))
        if not path:
            if isinstance(request, dict):
                request[draw(st.sampled_from(NAMES))] = copy.deepcopy(draw(st.sampled_from(ODD)))
            continue
        parent = request
        for key in path[:-1]:
            parent = parent[key]
        key = path[-1]
        action = draw(st.sampled_from(["replace", "drop", "role", "double", "wrap", "other", "rename", "text"]))
        if action == "replace":
            parent[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif action == "drop":
            del parent[key]
        elif action == "role" and isinstance(parent, dict):
            parent["role"] = draw(st.sampled_from(ROLES))
        elif action == "double" and isinstance(parent, list):
            parent.insert(draw(st.integers(0, len(parent))), copy.deepcopy(parent[key]))
        elif action == "wrap":
            parent[key] = draw(st.sampled_from([lambda v: [v], lambda v: {"a": v}, str]))(parent[key])
        elif action == "other":
            other = draw(st.sampled_from(places(request)))
            value: Any = request
            for step in other:
                value = value[step]
            parent[key] = copy.deepcopy(value)
        elif action == "rename" and isinstance(parent, dict):
            parent[draw(st.text(max_size=5))] = parent.pop(key)
        else:
            parent[key] = draw(st.text(max_size=30))
    return json.dumps(request, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def client(swift_processor: Any) -> TestClient:
    """The endpoint around ms-swift's template."""
    from swift.infer_engine import InferRequest
    from swift.template import get_template

    template = get_template(swift_processor, template_type="qwen2_5", max_length=32768)
    template.set_mode("transformers")

    async def lay_out(request: ChatRequest, number: int) -> AsyncIterator[AnswerPiece]:
        asked = InferRequest([dict(message) for message in request.messages], tools=list(request.tools) or None)
        try:
            length = len(template.encode(asked)["input_ids"])
        except Exception as error:
            raise AssertionError(f"the API took what the template does not: {error!r}") from error
        assert length
        yield AnswerPiece("我由 CSDN 开发", "stop", length, 5)

    made = api.app(lay_out, {"base": "You are Qwen.", "a": "Be brief."}, 0)
    return TestClient(made, raise_server_exceptions=False)


def held(client: TestClient, path: str, body: bytes) -> int:
    """Ask, and hold the response to what must be true of every one. Its status."""
    done = client.post(path, content=body)
    assert done.status_code in (200, 400, 422), (done.status_code, done.text)
    if done.status_code != 200:
        told = done.json()["error"]
        assert told["message"] and told["type"] == "invalid_request_error", told
        assert "\n" not in told["message"] and len(told["message"]) < 600, told
        assert not any(word in told["message"] for word in ("Traceback", "Error:", "NoneType", "object has no")), told
    elif done.headers["content-type"].startswith("text/event-stream"):
        events = done.text.split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""], events
        chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
        assert not any("error" in chunk for chunk in chunks), chunks
    else:
        assert done.json()["choices"]
    return done.status_code


def test_whatever_a_chat_request_holds(client: TestClient) -> None:
    seen: list[int] = []
    fuzz(bent(), lambda body: seen.append(held(client, "/v1/chat/completions", body)), short=300, share=0.8)
    assert len(seen) >= 200 and seen.count(200) > 20 and seen.count(400) > 20 and seen.count(422) > 20


def test_whatever_bytes_a_request_is(client: TestClient) -> None:
    valid = [json.dumps(request, ensure_ascii=False).encode() for request in REQUESTS]
    assert fuzz(mutated(valid), lambda body: held(client, "/v1/chat/completions", body), short=60, share=0.1) >= 40


def test_whatever_a_completion_request_holds(client: TestClient) -> None:
    assert fuzz(bent(), lambda body: held(client, "/v1/completions", body), short=40, share=0.1) >= 30
