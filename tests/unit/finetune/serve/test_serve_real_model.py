"""A real small model through the `openai` client: streaming, stop, tools, seed, logprobs, as the API documents them.

Half a minute on two cores, so MIRROR_SLOW_TESTS=1 runs it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.finetune.serve.test_serve_server import BASE, KEY, Server, openai

__all__ = ["openai"]
pytestmark = pytest.mark.skipif(not os.environ.get("MIRROR_SLOW_TESTS"), reason="MIRROR_SLOW_TESTS=1 runs it")
ASKED = "Name the capital of France in one short sentence."
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The fast backend with the real small model, and no adapter."""
    home = tmp_path_factory.mktemp("home")
    (home / BASE).symlink_to(smollm2)
    running = Server(home, "--system", "You are a helpful assistant.", MIRROR_API_KEY=KEY, BACKEND="fast")
    yield running
    running.end()


def ask(server: Server, text: str = ASKED, **options: Any) -> Any:
    options = {"max_tokens": 40, "temperature": 0} | options
    messages = options.pop("messages", [{"role": "user", "content": text}])
    names = [model.id for model in server.client().models.list()]
    return server.client().chat.completions.create(model=names[0], messages=messages, **options)


def test_it_knows_the_capital_streamed_and_whole(server):
    whole = ask(server)
    chunks = list(ask(server, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Paris" in whole.choices[0].message.content == text
    assert whole.choices[0].finish_reason == "stop" == chunks[-2].choices[0].finish_reason
    assert chunks[-1].usage == whole.usage and whole.usage.completion_tokens < 40


def test_stop_and_max_tokens(server):
    answer = ask(server).choices[0].message.content
    stopped = ask(server, stop=["Paris"]).choices[0]
    assert stopped.message.content == answer[: answer.index("Paris")] and stopped.finish_reason == "stop"
    short = ask(server, max_tokens=2)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 2
    assert answer.startswith(short.choices[0].message.content)


def test_seed_temperature_and_n(server):
    def answers(**options: Any) -> list[str]:
        done = ask(server, "Tell me a story.", temperature=1.0, max_tokens=16, n=3, **options)
        return [choice.message.content for choice in done.choices]

    assert answers(seed=1) == answers(seed=1) != answers(seed=2)
    assert len(set(answers(seed=1))) == 3
    assert len(set(answers(seed=1, extra_body={"top_k": 1}))) == 1
    assert len(set(answers(seed=1, top_p=0.001))) == 1


def test_logprobs_are_of_a_distribution(server):
    found = ask(server, logprobs=True, top_logprobs=5).choices[0]
    for each in found.logprobs.content:
        likely = [other.logprob for other in each.top_logprobs]
        assert likely == sorted(likely, reverse=True) and each.logprob == likely[0]
        assert 0 < sum(map(math.exp, likely)) <= 1 + 1e-4
    said = b"".join(bytes(each.bytes) for each in found.logprobs.content).decode()
    assert said == found.message.content


def test_tools_stand_in_the_prompt_and_a_reply_is_taken(server):
    """A model of this size seldom writes a call: what is shown is that it could, and that a round of tools is taken."""
    plain, offered = (
        ask(server, "What is the weather in Paris?"),
        ask(server, "What is the weather in Paris?", tools=[TOOL]),
    )
    assert offered.usage.prompt_tokens > plain.usage.prompt_tokens + 60
    for call in offered.choices[0].message.tool_calls or []:
        assert isinstance(json.loads(call.function.arguments), dict)
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "Sunny, 21 degrees."},
    ]
    assert "sunny" in ask(server, messages=messages, tools=[TOOL]).choices[0].message.content.lower()
