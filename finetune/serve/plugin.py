"""ms-swift plugin: what `swift deploy` 4.6 lacks as a server; serve.sh adds it with --external_plugins.

- The guard (guard.py) stands in front: 401 for a wrong key (ms-swift says 400), 413 for a long body, errors as JSON.
- Adapters are loaded before the server listens; ms-swift loads each at its first request.
- Batches of an adapter: ms-swift hands PEFT one name for the whole batch, which PEFT refuses for two rows and more.
- Turns: requests wait in groups of the same model and settings, and ms-swift serves the first group until it is empty.
  Under steady load the others would never be served.
- What one request does is not felt by another: in a batch, ms-swift lets one unusable request fail all of them, and one
  long prompt shortens the answers of all. Here an unusable one fails alone, and a long prompt is answered by itself.
- No pictures: the model takes text only, and fetching an address that a request names is nothing a server should do.
"""

import hashlib
import itertools
import os
import pickle
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from swift.infer_engine import AdapterRequest, TransformersEngine
from swift.pipelines.infer.deploy import SwiftDeploy
from swift.template import Template

from finetune.serve.guard import Guard, error_body

# Prompts up to so many characters are answered in batches: eight of them with 2048 new tokens take about 4 GiB at 7B.
BATCHED_CHARACTERS = 4000

_generate = Template.generate
_number = itertools.count()


def install(self: SwiftDeploy) -> None:
    """In place of ms-swift's own check of the key: it is called last when the app is made."""
    args = self.args
    if isinstance(self.infer_engine, TransformersEngine):
        for name, path in args.adapter_mapping.items():
            self.infer_engine._get_adapter_names(AdapterRequest(name, path))
    self.infer_engine.strict = False
    self.app.add_exception_handler(RequestValidationError, unreadable)
    self.app.add_exception_handler(HTTPException, failed)
    self.app.add_middleware(
        Guard,
        key=os.environ.get("MIRROR_API_KEY", ""),
        max_body=int(os.environ.get("MIRROR_SERVE_BODY_KIB", "1024")) * 1024,
        ready=f"{', '.join(self._get_model_list())} at http://{args.host}:{args.port}/v1",
    )


async def unreadable(_request: Request, error: Any) -> JSONResponse:
    """A body that is no JSON, or a field of the wrong type: what and where, in the form of OpenAI's errors."""
    first = error.errors()[0]
    why = (first.get("ctx") or {}).get("error")
    text = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}" + (f" ({why})" if why else "")
    return JSONResponse(error_body(422, text, "invalid_request"), 422)


async def failed(_request: Request, error: Any) -> JSONResponse:
    """An error of the web framework's own (a body that is no text, no such path), in the same form."""
    return JSONResponse(error_body(error.status_code, str(error.detail), "invalid_request"), error.status_code)


def generate(self: Template, model: Any, *args: Any, **kwargs: Any) -> Any:
    """Template.generate with `adapter_names` as long as the batch."""
    names, ids = kwargs.get("adapter_names"), kwargs.get("input_ids")
    if names is not None and ids is not None and len(names) == 1:
        kwargs["adapter_names"] = names * ids.shape[0]
    return _generate(self, model, *args, **kwargs)


def fetch(self: TransformersEngine) -> Any:
    """In place of _fetch_infer_requests: the next batch as (arguments of _infer, queues of the answers), or None.

    A group is requests of the same settings and model; one that has more waiting goes to the end of the line.
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


def no_media(*_: Any) -> Any:
    """In place of _materialize_media, which reads files and fetches addresses."""
    raise ValueError("this model takes text only: leave pictures, sound and video out of the messages")


SwiftDeploy._install_auth_middleware = install
SwiftDeploy._materialize_media = staticmethod(no_media)
Template.generate = generate
TransformersEngine._fetch_infer_requests = fetch
