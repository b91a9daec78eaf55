"""ms-swift plugin that makes `swift deploy` 4.6 a complete server; commands/serve.py adds it with --external_plugins.

- HTTP: api.py takes the requests and sends the responses. Only ms-swift's engine is used, none of its paths.
- Guard: guard.py sends 401 for a wrong key (ms-swift: 400), 413 for a long body, and errors as JSON.
- System prompts: each model name has that of its own training. ms-swift uses the first adapter's for all models.
- Loading: adapters are loaded before the server listens. ms-swift loads each at its first request.
- Batches with an adapter: ms-swift passes PEFT one name for the whole batch, which PEFT refuses from two rows on.
- Fairness: requests wait in groups of the same model and settings. ms-swift serves the first group until it is empty,
  so under steady load the others would never be served; here the groups take turns.
- Isolation: in a batch of ms-swift, one unusable request fails all, and one long prompt shortens all answers. Here an
  unusable request fails alone, and a long prompt is answered by itself.
"""

import contextlib
import hashlib
import itertools
import json
import os
import pickle
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from starlette.middleware import Middleware
from starlette.routing import Route
from swift.infer_engine import AdapterRequest, InferRequest, RequestConfig, TransformersEngine
from swift.pipelines.infer.deploy import SwiftDeploy
from swift.template import TEMPLATE_MAPPING, Template

from finetune.serve import api, metrics
from finetune.serve.answer import AnswerPiece
from finetune.serve.guard import Guard
from finetune.serve.page.routes import Page
from finetune.serve.request import ChatRequest

# Prompts of at most so many characters are batched: eight of them with 2048 new tokens take about 4 GiB at 7B.
BATCHED_CHARACTERS = 4000

_generate = Template.generate
_number = itertools.count()


def install(self: SwiftDeploy) -> None:
    """Replace the app. It takes the place of ms-swift's check of the key, the last call when the app is made."""
    args = self.args
    if isinstance(self.infer_engine, TransformersEngine):
        for name, path in args.adapter_mapping.items():
            self.infer_engine._get_adapter_names(AdapterRequest(name, path))
    self.infer_engine.strict = False
    counts = metrics.Counts()
    guard = Middleware(
        Guard,
        counts=counts,
        key=os.environ.get("MIRROR_API_KEY", ""),
        max_body=int(os.environ.get("MIRROR_SERVE_BODY_KIB", "1024")) * 1024,
        ready=os.environ.get("MIRROR_SERVE_READY", "serve: ready"),
    )
    self.app = api.app(
        lambda request, number: answers(self, request, number),
        system_prompts(self),
        int(time.time()),
        args.owned_by,
        json.loads(os.environ.get("MIRROR_SERVE_ORIGINS", "[]")),
        [guard],
        contextlib.asynccontextmanager(lifespan(self)),
        Page.of_environment(),
        more=[Route("/metrics", metrics.page(counts))],
    )


def system_prompts(self: SwiftDeploy) -> dict[str, str | None]:
    """{model name: the system prompt of a conversation that has none}.

    commands/serve.py puts them in the environment. If it did not, the user gave --system, which holds for all models.
    """
    names = self._get_model_list()
    known = json.loads(os.environ.get("MIRROR_SERVE_SYSTEMS", "null"))
    if known is None:
        return dict.fromkeys(names, self.args.system)
    # The template in use has the first adapter's prompt as its default; the registered template has the model's own.
    own = TEMPLATE_MAPPING[self.template.template_meta.template_type].default_system
    return {name: known.get(name) if known.get(name) is not None else own for name in names}


def lifespan(self: SwiftDeploy) -> Any:
    """ms-swift's lifespan, a plain generator, as the async generator that Starlette needs."""

    async def life(app: Any) -> AsyncIterator[None]:
        with contextlib.contextmanager(self.lifespan)(app):
            yield

    return life


async def answers(self: SwiftDeploy, request: ChatRequest, number: int) -> AsyncIterator[AnswerPiece]:
    """The pieces of one answer by ms-swift's engine.

    Args:
        self: ms-swift's server.
        request: The request.
        number: The number of the choice.
    """
    config = RequestConfig(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        repetition_penalty=request.repetition_penalty,
        stop=list(request.stop),
        seed=None if request.seed is None else request.seed + number,
        stream=request.stream,
        logprobs=request.top_logprobs is not None,
        top_logprobs=request.top_logprobs or None,
    )
    self._set_request_config(config)
    asked = InferRequest(messages=[dict(message) for message in request.messages], tools=list(request.tools) or None)
    info: dict[str, Any] = {"response": "", "infer_request": asked.to_printable()}

    def hook(kwargs: dict[str, Any]) -> dict[str, Any]:
        info["generation_config"] = kwargs["generation_config"]
        return kwargs

    kwargs: dict[str, Any] = self.infer_kwargs | {"pre_infer_hook": hook}
    if path := self.args.adapter_mapping.get(request.model):
        kwargs["adapter_request"] = AdapterRequest(request.model, path)
    given = await self.infer_async(asked, config, **kwargs)
    if not request.stream:
        yield piece(self._post_process(info, given), given.choices[0].message)
        return
    async for part in given:
        yield piece(self._post_process(info, part), part.choices[0].delta)


def piece(response: Any, message: Any) -> AnswerPiece:
    """A piece for the API. `response`: ms-swift's response or chunk; `message`: the message or delta in it."""
    choice, usage = response.choices[0], response.usage
    return AnswerPiece(
        message.content or "",
        choice.finish_reason,
        usage.prompt_tokens if usage else 0,
        usage.completion_tokens if usage else 0,
        tuple(asdict(call) for call in message.tool_calls or ()),
        choice.logprobs,
    )


def generate(self: Template, model: Any, *args: Any, **kwargs: Any) -> Any:
    """In place of Template.generate: repeats the adapter's name for every row of the batch."""
    names, ids = kwargs.get("adapter_names"), kwargs.get("input_ids")
    if names is not None and ids is not None and len(names) == 1:
        kwargs["adapter_names"] = names * ids.shape[0]
    return _generate(self, model, *args, **kwargs)


def fetch(self: TransformersEngine) -> Any:
    """In place of _fetch_infer_requests: the next batch as (arguments of _infer, queues of the answers), or None.

    A group has the requests of the same settings and model. After a batch, it goes to the end of the line.
    """
    while not self._queue.empty():
        request, kwargs, queue = self._queue.get()
        key = hashlib.sha256(pickle.dumps((kwargs["request_config"], kwargs["adapter_request"]))).hexdigest()
        if sum(len(str(message.get("content"))) for message in request.messages) > BATCHED_CHARACTERS:
            key = f"{key} {next(_number)}"
        self._task_pool.setdefault(key, (kwargs, []))[1].append((request, queue))
    if not self._task_pool:
        return None
    key = next(iter(self._task_pool))
    kwargs, waiting = self._task_pool.pop(key)
    size = self.max_batch_size if self.max_batch_size > 0 else len(waiting)
    if waiting[size:]:
        self._task_pool[key] = kwargs, waiting[size:]
    batch = waiting[:size]
    return kwargs | {"infer_requests": [request for request, _ in batch]}, [queue for _, queue in batch]


SwiftDeploy._install_auth_middleware = install
SwiftDeploy._warn_if_unauthenticated = lambda self: None  # the guard checks the key; ms-swift has none, and would warn
Template.generate = generate
TransformersEngine._fetch_infer_requests = fetch
