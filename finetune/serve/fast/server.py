"""The program of the fast backend: starts the engine's process, then the endpoint; commands/serve.py starts it.

    python -m finetune.serve.fast.server SETTINGS

SETTINGS is the JSON of settings.py. MIRROR_API_KEY holds the key. SIGTERM closes the port; answers under way are
finished, then the engine ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from common.errors import DONE, FAILED, UserError, run_main
from common.i18n import _
from finetune.serve.fast import worker
from finetune.serve.fast.settings import EndpointSettings

# The command sets these for both backends: the key, and what is printed when the port is open.
KEY, READY = "MIRROR_API_KEY", "MIRROR_SERVE_READY"
ABLE = ("frequency_penalty", "presence_penalty")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    settings = EndpointSettings.from_json((sys.argv[1:] if argv is None else argv)[0])
    began = time.monotonic()
    here, there = multiprocessing.Pipe()
    # CUDA does not work after a fork, so the process is spawned. It loads while this process does its own imports.
    process = multiprocessing.get_context("spawn").Process(
        target=worker.main, args=(there, settings), name="engine", daemon=True
    )
    process.start()
    there.close()
    endpoint = Endpoint(settings, here)
    what = ready(here)
    print(
        _("serve: engine ready after {seconds:.1f} s: {rows} answers at a time, a cache of {tokens} tokens").format(
            seconds=time.monotonic() - began, rows=what["rows"], tokens=what["tokens"]
        ),
        file=sys.stderr,
        flush=True,
    )
    endpoint.run()
    process.join(10)
    if endpoint.lost:
        raise UserError(_("serve: the engine has ended; its last lines above say why"), FAILED)
    return DONE


def ready(pipe: Connection) -> dict[str, Any]:
    """Wait until the engine is ready; returns its figures. Raises UserError with its message if it cannot start."""
    try:
        message = pipe.recv()
    except (EOFError, OSError):
        raise UserError(
            _("serve: the engine has ended before it was ready; its last lines above say why"), FAILED
        ) from None
    if message[0] == "failed":
        raise UserError(message[1], message[2])
    return message[1]  # type: ignore[no-any-return]


class Endpoint:
    """The app, its server and its Client. The imports for HTTP run here, while the engine loads."""

    def __init__(self, settings: EndpointSettings, pipe: Connection) -> None:
        import uvicorn
        from starlette.middleware import Middleware
        from starlette.routing import Route

        from finetune.serve import api, metrics
        from finetune.serve.fast.client import Client
        from finetune.serve.guard import Guard
        from finetune.serve.page.routes import Page
        from qwen2.chat import DEFAULT_SYSTEM, Tokenizer

        self.lost = False
        self.client = Client(pipe, settings, Tokenizer(settings.model), self._lost)
        told = ((name, settings.systems.get(name)) for name in settings.names)
        systems = {name: DEFAULT_SYSTEM if system is None else system for name, system in told}
        counts = metrics.Counts()
        guard = Middleware(
            Guard,
            key=os.environ.get(KEY, ""),
            max_body=settings.body_kib * 1024,
            ready=os.environ.get(READY, "serve: ready"),
            counts=counts,
        )
        app = api.app(
            self.client.answers,
            systems,
            int(time.time()),
            settings.owned_by,
            settings.origins,
            [guard],
            self._life,
            Page.of_environment(),
            ABLE,
            unusable=(ValueError,),
            more=[Route("/metrics", metrics.page(counts, lambda: self.client.load))],
        )
        self.server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_level="warning",
                ssl_keyfile=settings.ssl_keyfile,
                ssl_certfile=settings.ssl_certfile,
            )
        )

    @contextlib.asynccontextmanager
    async def _life(self, _app: Any) -> AsyncIterator[None]:
        self.client.begin()
        yield
        self.client.end()

    def _lost(self) -> None:
        self.lost = True
        self.server.should_exit = True

    def run(self) -> None:
        """Serve until a stop signal comes or the engine ends."""
        self.server.run()


if __name__ == "__main__":
    sys.exit(run_main(main))
