"""Validates and normalizes a request before an engine sees it; api.py calls it.

The input is any body sent to /v1/chat/completions or /v1/completions. The output is a ChatRequest that every engine can
answer: one system message at the beginning, texts as contents, alternating turns, numbers within their ranges. A
documented field of the API that no engine here supports is refused with a message, never silently ignored.

It needs only the standard library: no engine, no web framework.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune.serve.fields import Fields, Refused, clean, shown, text_of, wrong_type
from finetune.serve.messages import MEDIA, TEXT_ONLY, messages, tools

STOPS = 4  # the API's own limit
CHOICES = 128
# Below these, the likeliest token is meant: logits divided by a smaller temperature overflow.
COLDEST = 0.01
SMALLEST_TOP_P = 1e-6
TOKENS = 2**31 - 1
SEEDS = 2**63 - 1

LENGTHS = ("max_tokens", "max_completion_tokens")

# Fields of the API that have no effect on an answer here.
IGNORED = frozenset(
    (
        "user",
        "metadata",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
    )
)
# Fields of the API that are not supported: {field: (values that ask for nothing and are accepted, what to do instead)}.
NOT_DONE: dict[str, tuple[tuple[Any, ...], str]] = {
    "audio": ((), "the model writes text only"),
    "best_of": ((1,), "ask with n and choose"),
    "echo": ((False,), "the prompt is not repeated in the answer"),
    "frequency_penalty": ((0,), "use repetition_penalty, or BACKEND=fast"),
    "function_call": (("none", "auto"), "use tool_choice"),
    "functions": (([],), "use tools"),
    "logit_bias": (({},), "no token can be favoured"),
    "modalities": ((["text"],), "the model writes text only"),
    "moderation": ((), "nothing is moderated"),
    "parallel_tool_calls": ((True,), "an answer may hold several tool calls"),
    "prediction": ((), "leave it out"),
    "presence_penalty": ((0,), "use repetition_penalty, or BACKEND=fast"),
    "reasoning_effort": (("none",), "the model does not reason apart from its answer"),
    "response_format": (({"type": "text"},), "ask for JSON in the messages, and check the answer"),
    "store": ((False,), "nothing is stored"),
    "suffix": (("",), "text is not filled in"),
    "verbosity": (("medium",), "say in the messages how long the answer should be"),
    "web_search_options": ((), "nothing is searched"),
}


@dataclass(frozen=True)
class ChatRequest:
    """A normalized request for an engine. A number that is None has the engine's default."""

    model: str
    messages: tuple[dict[str, Any], ...]  # with role, content (a text) and, if there are any, tool_calls, tool_call_id
    tools: tuple[dict[str, Any], ...] = ()
    stop: tuple[str, ...] = ()
    n: int = 1
    stream: bool = False
    include_usage: bool = False  # whether a stream ends with a chunk of usage
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float = 0.0  # only some engines support this and the next
    presence_penalty: float = 0.0
    seed: int | None = None
    top_logprobs: int | None = None  # None: no logprobs; 0: those of the tokens in the answer
    chat: bool = field(default=True, compare=False)  # False: sent to /v1/completions, and answered in its form


def parse(body: bytes) -> Any:
    """The JSON of a request's body. Raises Refused if it is not JSON."""
    try:
        return json.loads(body.decode(), parse_constant=_no_number)
    except UnicodeDecodeError:
        raise Refused("the body is not UTF-8 text: send JSON in UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Refused(f"JSON decode error: {place}: {error.msg}: send a JSON object", status=422) from None
    except (ValueError, RecursionError) as error:
        text = "nested too deeply" if isinstance(error, RecursionError) else "a number that cannot be read"
        raise Refused(f"JSON decode error: {text}: send a JSON object", status=422) from None


def _no_number(name: str) -> float:
    raise ValueError(name)


def regular(data: Any, systems: Mapping[str, str | None], chat: bool = True, able: Collection[str] = ()) -> ChatRequest:
    """The ChatRequest that a parsed body asks for.

    Args:
        data: The body.
        systems: {model name: the system prompt of a conversation that has none}; None adds none.
        chat: True for /v1/chat/completions (with `messages`), False for /v1/completions (with `prompt`).
        able: Of the fields that only some engines support, those that this one does.

    Raises:
        Refused: A field is missing, of the wrong type, out of range, or not supported.
    """
    if not isinstance(data, dict):
        raise Refused('body: not a JSON object: send {"model": …, "messages": […]}', status=422)
    body = Fields({name: value for name, value in data.items() if value is not None})
    _require_known(body.data, chat, able)
    model = body.text("model")
    if model is None:
        raise Refused("body.model: the field is missing: name a model of /v1/models", "model", 422)
    if model not in systems:
        raise Refused(f"model {shown(model)} is not served here: use one of {', '.join(systems)}", "model")
    stream = body.flag("stream")
    temperature, top_p = body.number("temperature", 0, 2), body.number("top_p", 0, 1)
    if (temperature is not None and temperature < COLDEST) or (top_p is not None and top_p < SMALLEST_TOP_P):
        temperature, top_p = 0.0, None
    return ChatRequest(
        model=model,
        messages=messages(data.get("messages"), systems[model]) if chat else _prompt(data, systems[model]),
        tools=tools(body.data) if chat else (),
        stop=_stop(body.data.get("stop")),
        n=body.whole("n", 1, CHOICES) or 1,
        stream=stream,
        include_usage=_include_usage(body, stream),
        max_tokens=_max_tokens(body),
        temperature=temperature,
        top_p=top_p,
        top_k=body.whole("top_k", -1, TOKENS),
        repetition_penalty=body.number("repetition_penalty", 0.1, 10),
        frequency_penalty=body.number("frequency_penalty", -2, 2) or 0.0,
        presence_penalty=body.number("presence_penalty", -2, 2) or 0.0,
        seed=body.whole("seed", -SEEDS - 1, SEEDS),
        top_logprobs=_logprobs(body, chat),
        chat=chat,
    )


def _require_known(body: dict[str, Any], chat: bool, able: Collection[str]) -> None:
    """Raises Refused for a field that would be ignored."""
    both = {"model", "stop", "n", "stream", "stream_options", "max_tokens", "temperature", "top_p", "top_k", "seed"}
    known = both | {"repetition_penalty", "logprobs", *IGNORED, *NOT_DONE}
    known |= {"messages", "tools", "tool_choice", "max_completion_tokens", "top_logprobs"} if chat else {"prompt"}
    for name, value in body.items():
        if name in MEDIA and value:
            raise Refused(f"{name}: {TEXT_ONLY}", name)
        if name not in known and name not in MEDIA:
            raise Refused(f"{shown(name)}: not a field that this server knows: leave it out", clean(name))
        if name in NOT_DONE and name not in able:
            nothing, instead = NOT_DONE[name]
            # True == 1 in Python, but not in JSON.
            if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in nothing):
                raise Refused(f"{name}: {shown(value)} is not supported: {instead}", name)


def _max_tokens(body: Fields) -> int | None:
    old, new = (body.whole(name, 1, TOKENS, " (if left out: serve.sh's max_new_tokens)") for name in LENGTHS)
    if old is not None and new is not None and old != new:
        raise Refused("max_tokens and max_completion_tokens differ: send the second alone", "max_tokens")
    return old if new is None else new


def _include_usage(body: Fields, stream: bool) -> bool:
    options = body.data.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise wrong_type("stream_options", options, "an object")
    if not stream:
        raise Refused("stream_options: only a stream has them: set stream to true", "stream_options")
    found = Fields({f"stream_options.{name}": value for name, value in options.items() if value is not None})
    for name in found.data:
        if name not in ("stream_options.include_usage", "stream_options.include_obfuscation"):
            raise Refused(f"{shown(name)}: not an option of a stream: leave it out", "stream_options")
    if found.flag("stream_options.include_obfuscation"):
        raise Refused("stream_options.include_obfuscation: not supported: leave it out", "stream_options")
    return found.flag("stream_options.include_usage")


def _logprobs(body: Fields, chat: bool) -> int | None:
    if not chat:
        if body.data.get("logprobs") is not None:
            raise Refused("logprobs: not supported here: use /v1/chat/completions", "logprobs")
        return None
    wanted, top = body.flag("logprobs"), body.whole("top_logprobs", 0, 20)
    if top is not None and not wanted:
        raise Refused("top_logprobs: only with logprobs: set logprobs to true", "top_logprobs")
    if wanted and body.data.get("stop"):
        raise Refused("logprobs: not supported together with stop: leave one out", "logprobs")
    return (top or 0) if wanted else None


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list):
        raise wrong_type("stop", value, "a text or a list of texts")
    if len(stops) > STOPS:
        raise Refused(f"stop: {len(stops)} texts: send at most {STOPS}", "stop")
    found = tuple(text_of(each, f"stop.{number}") for number, each in enumerate(stops))
    if "" in found:
        raise Refused("stop: an empty text: leave it out", "stop")
    return found


def _prompt(data: dict[str, Any], system: str | None) -> tuple[dict[str, Any], ...]:
    """The prompt of /v1/completions as a user's message: the model is a chat model."""
    prompt = data.get("prompt")
    if prompt is None:
        raise Refused("body.prompt: the field is missing: send a text", "prompt", 422)
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if isinstance(prompt, list):
        raise Refused("prompt: send one text at a time, and no token ids", "prompt")
    said = {"role": "user", "content": text_of(prompt, "prompt")}
    return ({"role": "system", "content": system}, said) if system is not None else (said,)
