"""What the API documents, asked of both backends with the `openai` package: prompts, tools, stop, usage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.finetune.serve.test_serve_server import BACKENDS, BASE, KEY, Server, home, make_adapter, openai, post

__all__ = ["home"]  # a fixture

SYSTEMS = {"a": "You are a helpful assistant.", "b": "你是客服小美,只用一句话回答。"}
USER = {"role": "user", "content": "你是谁?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"role": "tool", "tool_call_id": "c1", "content": "12"}
PARTS = [{"type": "text", "text": "12"}]
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module", params=BACKENDS)
def server(home: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """Two adapters that were trained under other system prompts, and the base."""
    for name, system in SYSTEMS.items():
        folder = home / f"output/{name}/checkpoint-7"
        make_adapter(folder, home / BASE)
        args = json.loads((folder / "args.json").read_text())
        (folder / "args.json").write_text(json.dumps(args | {"system": system}))
    adapters = (f"--adapter={name}=output/{name}" for name in SYSTEMS)
    running = Server(home, *adapters, MIRROR_API_KEY=KEY, BACKEND=request.param)
    running.backend = request.param  # type: ignore[attr-defined]
    yield running
    running.end()


@pytest.fixture
def chat(server: Server) -> Any:
    """chat(*messages, **options): client.chat.completions.create with few tokens."""

    def create(*messages: Any, **options: Any) -> Any:
        options = {"model": "a", "max_tokens": 12, "temperature": 0} | options
        return server.client().chat.completions.create(messages=list(messages or [USER]), **options)

    return create


def prompt(system: str) -> int:
    """Tokens of a prompt with this system message, by the project's own tokenizer in the template of Qwen2.5."""
    from qwen2.chat import Tokenizer

    return len(Tokenizer(prompt.folder).encode_chat([USER], system=system))  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["a", "b", BASE])
def test_every_name_is_asked_under_its_own_training_s_system_prompt(chat, home, name, stream):
    prompt.folder = home / BASE  # type: ignore[attr-defined]
    system = SYSTEMS.get(name, "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")
    options = {"stream_options": {"include_usage": True}} if stream else {}
    alone, told = (
        chat(*messages, model=name, stream=stream, **options)
        for messages in ([USER], [{"role": "system", "content": system}, USER])
    )
    if stream:
        usages, texts = zip(*map(in_stream, (alone, told)), strict=True)
    else:
        usages = (alone.usage, told.usage)
        texts = (alone.choices[0].message.content, told.choices[0].message.content)
    assert usages[0].prompt_tokens == usages[1].prompt_tokens == prompt(system)
    assert texts[0] == texts[1]


def in_stream(chunks: Any) -> tuple[Any, str]:
    """(usage of the last chunk, text) of a stream."""
    found = list(chunks)
    return found[-1].usage, "".join(each.choices[0].delta.content or "" for each in found if each.choices)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "messages",
    [
        [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, TOOL],
        [USER, {"role": "assistant", "tool_calls": [CALL]}, TOOL],
        [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {**TOOL, "content": PARTS}],
        [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, USER],
        [{"role": "system", "content": "Be brief."}, {"role": "system", "content": "Be kind."}, USER],
        [{"role": "developer", "content": "Be brief."}, USER],
        [USER, USER],
        [{"role": "assistant", "content": "Hello."}, USER],
    ],
)  # fmt: skip
def test_messages_as_the_api_documents_them(chat, messages, stream):
    done = chat(*messages, tools=[FUNCTION], stream=stream)
    assert in_stream(done)[1] if stream else done.choices[0].message.content


def test_the_three_ways_to_leave_content_out_are_one(chat):
    call = {"role": "assistant", "tool_calls": [CALL]}
    asked = [chat(USER, {**call, **content}, TOOL) for content in ({}, {"content": None}, {"content": ""})]
    assert len({(each.usage.prompt_tokens, each.choices[0].message.content) for each in asked}) == 1


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("name", ["a", BASE])
def test_the_answer_ends_before_the_stop_text(chat, name, as_list):
    whole = chat(model=name, max_tokens=24).choices[0].message.content
    stop = whole[5:7]
    until = whole[: whole.index(stop)]
    wanted = [stop, "never said"] if as_list else stop
    done = chat(model=name, max_tokens=24, stop=wanted)
    assert done.choices[0].message.content == until and done.choices[0].finish_reason == "stop"
    chunks = list(chat(model=name, max_tokens=24, stop=wanted, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == until
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["a", BASE])
def test_two_choices(chat, name, stream):
    done = chat(model=name, n=2, temperature=1.5, stream=stream)
    if stream:
        texts: dict[int, str] = {}
        for chunk in done:
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    else:
        texts = {choice.index: choice.message.content for choice in done.choices}
        assert 0 < done.usage.completion_tokens <= 24
    assert sorted(texts) == [0, 1] and texts[0] != texts[1] and all(texts.values())


def test_the_longest_answer_by_its_newer_name(chat):
    done = chat(max_tokens=openai.NOT_GIVEN, max_completion_tokens=5)
    assert done.usage.completion_tokens == 5 and done.choices[0].finish_reason == "length"


@pytest.mark.parametrize("name", ["a", BASE])
def test_a_stream_says_which_model_and_usage_only_where_asked(chat, name):
    chunks = list(chat(model=name, stream=True))
    assert {chunk.model for chunk in chunks} == {name}
    assert all(chunk.usage is None for chunk in chunks)
    chunks = list(chat(model=name, stream=True, stream_options={"include_usage": True}))
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0


def test_logprobs(chat):
    done = chat(logprobs=True, top_logprobs=2)
    content = done.choices[0].logprobs.content
    assert len(content) == done.usage.completion_tokens and all(len(each.top_logprobs) == 2 for each in content)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format: .*not supported"),
        ({"logit_bias": {"5": 1.0}}, "logit_bias"),
        ({"model": "gpt-4"}, "not served here"),
        ({"max_completion_tokens": 5}, "differ"),
    ],
)
def test_what_is_not_supported_is_a_400_in_words(chat, options, says):
    with pytest.raises(openai.BadRequestError, match=says):
        chat(**options)


@pytest.mark.parametrize("name", ["frequency_penalty", "presence_penalty"])
def test_penalties_are_done_or_refused(chat, server, name):
    if server.backend == "swift":
        with pytest.raises(openai.BadRequestError, match=f"{name}: 2.0 is not supported"):
            chat(**{name: 2.0})
    else:
        plain, punished = (chat(max_tokens=40, **more).choices[0].message.content for more in ({}, {name: 2.0}))
        assert plain != punished


def test_metrics_are_prometheus_own(server):
    import httpx
    from prometheus_client.parser import text_string_to_metric_families

    server.ask("你是谁?", "a")
    assert httpx.get(f"{server.url}/metrics").status_code == 401
    done = httpx.get(f"{server.url}/metrics", headers={"authorization": f"Bearer {KEY}"})
    families = {family.name: family for family in text_string_to_metric_families(done.text)}
    asked = [s for s in families["mirror_requests"].samples if s.labels["path"] == "/v1/chat/completions"]
    assert done.headers["content-type"].startswith("text/plain")
    assert sum(sample.value for sample in asked if sample.labels["status"] == "200") >= 1
    assert families["mirror_requests_in_flight"].samples[0].value == 1
    if server.backend == "fast":
        assert families["mirror_answer_tokens"].samples[0].value > 0
        assert families["mirror_rows_running"].samples[0].value == 0


def test_embeddings_are_not_made(server):
    with pytest.raises(openai.NotFoundError, match="embeddings are not supported"):
        server.client().embeddings.create(model=BASE, input="x")


def test_completions(server):
    done = server.client().completions.create(model="a", prompt="你是谁?", max_tokens=12, temperature=0)
    chunks = server.client().completions.create(model="a", prompt="你是谁?", max_tokens=12, temperature=0, stream=True)
    assert done.choices[0].text == "".join(chunk.choices[0].text for chunk in chunks) != ""


def test_a_page_of_this_machine_may_ask(server):
    import httpx

    headers = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
    done = httpx.options(f"{server.url}/v1/chat/completions", headers=headers)
    assert done.status_code == 200 and done.headers["access-control-allow-origin"] == "http://localhost:3000"


def test_a_cold_temperature_kills_nothing(server):
    """Logits divided by it would be infinite, and the thread that generates a stream would end without a word."""
    for stream in (False, True):
        body = {"model": "a", "messages": [USER], "max_tokens": 4, "temperature": 1e-45, "top_p": 1e-9}
        if not stream:
            assert post(server, json.dumps(body).encode())[0] == 200
    assert server.ask("你是谁?", "a", temperature=1e-45, stream=True)
