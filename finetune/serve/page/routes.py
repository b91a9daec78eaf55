"""The page's paths: static files, and /page/setup.json with what the page shows; api.py adds them.

The files hold no private data. They need no key, so that the page can ask for it. Questions, answers and system prompts
come from someone's data, so the guard asks for the key at /page/setup.json, as everywhere else. If the server has no
key, only requests to an address of this machine get it: another site could let its own name point to 127.0.0.1 and
would then read the response as its own (DNS rebinding).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from finetune.serve.guard import error_body

ENVIRONMENT = "MIRROR_SERVE_PAGE"  # the command sets it for the server's process; without it there is no page
FOLDER = Path(__file__).parent
FILES = {  # {path: (file, type)}; guard.PAGE names the same paths
    "/": ("index.html", "text/html"),
    "/page/chat.css": ("chat.css", "text/css"),
    "/page/chat.js": ("chat.js", "text/javascript"),
    "/page/api.js": ("api.js", "text/javascript"),
    "/page/words.js": ("words.js", "text/javascript"),
}
SETUP = "/page/setup.json"
HEADERS = {
    # Nothing from another origin, no inline script or style, no frame around the page.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})


@dataclass(frozen=True)
class Page:
    """What the page shows besides the models' names.

    Args:
        questions: {model: its training's questions}, as finetune.verify.examples gives them.
        notice: The kind of a model made for tests, for which words.js has a sentence; None for others.
        has_key: Whether the guard asks for a key.
    """

    questions: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    notice: str | None = None
    has_key: bool = False

    def to_environment(self) -> str:
        """The page as the text of an environment variable. Linux allows 128 KiB for one."""
        text = json.dumps({"questions": self.questions, "notice": self.notice}, ensure_ascii=False)
        return text.encode("utf-8", "replace").decode()

    @staticmethod
    def of_environment() -> Page | None:
        """The page from the environment; None if the command wants none."""
        if not (text := os.environ.get(ENVIRONMENT)):
            return None
        return Page(**json.loads(text), has_key=bool(os.environ.get("MIRROR_API_KEY")))


def routes(page: Page, systems: Mapping[str, str | None]) -> list[Route]:
    """The page's paths. `systems`: {model: the system prompt of a conversation that has none}."""

    async def file(http: Request) -> Response:
        name, kind = FILES[http.url.path]
        return Response((FOLDER / name).read_bytes(), media_type=kind, headers=HEADERS)

    async def setup(http: Request) -> Response:
        if not page.has_key and http.url.hostname not in THIS_MACHINE:
            message = f"this server has no key, so it tells this at 127.0.0.1 only, not at {http.url.hostname}"
            return JSONResponse(error_body(403, message, "forbidden"), 403)
        models = [{"id": name, "system": system} for name, system in systems.items()]
        told = {"models": models, "questions": page.questions, "notice": page.notice}
        return JSONResponse(told, headers={"cache-control": "no-store"})

    files = [Route(path, file, methods=["GET"]) for path in FILES]
    return [*files, Route(SETUP, setup, methods=["GET"])]
