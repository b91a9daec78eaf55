"""The page's paths: what is given without the key, what is not, and that nothing comes from anywhere else."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from common import model_kind
from finetune.serve import api
from finetune.serve.answer import AnswerPiece
from finetune.serve.guard import PAGE, Guard
from finetune.serve.page import routes
from finetune.serve.page.routes import FILES, FOLDER, SETUP, Page
from finetune.serve.request import ChatRequest

SYSTEMS = {"base": None, "faq": "You work in a library."}
ROW = {"kind": "trained", "question": "几点开门?", "answer": "九点。"}


async def silent(request: ChatRequest, number: int) -> AsyncIterator[AnswerPiece]:
    """An engine that is not asked."""
    yield AnswerPiece("")


def client(key: str = "", page: Page | None = None, host: str = "127.0.0.1:8000") -> TestClient:
    """A client of an endpoint with that page, behind the guard."""
    app: Any = api.app(silent, SYSTEMS, 0, inner=[Middleware(Guard, key=key)], page=page)
    return TestClient(app, base_url=f"http://{host}")


def shown(key: str = "") -> Page:
    return Page({"faq": [ROW]}, "standin", bool(key))


def test_the_guard_lets_through_the_files_and_nothing_else():
    assert frozenset(FILES) == PAGE and SETUP not in PAGE
    assert {name for name, _ in FILES.values()} == {
        path.name for path in FOLDER.iterdir() if path.suffix not in (".py", "") and path.is_file()
    }


@pytest.mark.parametrize("path", FILES)
def test_the_files_come_without_the_key_under_a_strict_policy(path):
    done = client("s3cret", shown("s3cret")).get(path)
    assert done.status_code == 200 and done.headers["content-type"].startswith(FILES[path][1])
    policy = done.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert "frame-ancestors 'none'" in policy and done.headers["x-content-type-options"] == "nosniff"
    assert "几点" not in done.text and "library" not in done.text


@pytest.mark.parametrize("name", [name for name, _ in FILES.values()])
def test_nothing_is_loaded_from_a_network_and_nothing_is_put_in_as_html(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert not re.search(
        r"https?://|@import|innerHTML|insertAdjacentHTML|document\.write|\beval\(|\sstyle=\"|\son\w+=\"", text
    )


def test_questions_and_system_prompts_need_the_key():
    asked = client("s3cret", shown("s3cret"))
    assert asked.get(SETUP).status_code == 401
    assert asked.get(SETUP, headers={"authorization": "Bearer wrong"}).status_code == 401
    done = asked.get(SETUP, headers={"authorization": "Bearer s3cret"})
    assert done.headers["cache-control"] == "no-store"
    assert done.json() == {
        "models": [{"id": "base", "system": None}, {"id": "faq", "system": "You work in a library."}],
        "questions": {"faq": [ROW]},
        "notice": "standin",
    }


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("127.0.0.1.nip.io", 403),
    ],
)
def test_without_a_key_a_page_that_points_its_own_name_here_reads_nothing(host, status):
    assert client("", shown(), host).get(SETUP).status_code == status
    assert client("k", shown("k"), host).get(SETUP, headers={"authorization": "Bearer k"}).status_code == 200


@pytest.mark.parametrize(
    "kind",
    [kind.name for kind in vars(model_kind).values() if isinstance(kind, model_kind.ModelKind) and kind.is_for_tests],
)
def test_every_kind_of_test_model_has_its_sentence_in_both_languages(kind):
    assert len(re.findall(rf"^    {kind}:", (FOLDER / "words.js").read_text(encoding="utf-8"), re.MULTILINE)) == 2


@pytest.mark.parametrize("path", [*FILES, SETUP])
def test_no_page_is_no_path(path):
    assert client().get(path).status_code == 404


def test_the_page_goes_through_the_environment(monkeypatch):
    page = Page({"faq": [ROW, {**ROW, "answer": "half \ud83d"}]}, None)
    monkeypatch.setenv(routes.ENVIRONMENT, page.to_environment())
    monkeypatch.setenv("MIRROR_API_KEY", "k")
    read = Page.of_environment()
    assert read == Page({"faq": [ROW, {**ROW, "answer": "half ?"}]}, None, True)
    monkeypatch.setenv(routes.ENVIRONMENT, "")
    assert Page.of_environment() is None
