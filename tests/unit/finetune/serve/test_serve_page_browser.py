"""The page in headless Chromium, against the real server on a tiny random model with an adapter.

Without Chromium or playwright on a developer's machine it is skipped; in CI both must be there (the image's test stage
has them).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.finetune.real_swift import make_home
from tests.unit.finetune.serve.test_serve_server import BACKENDS, BASE, KEY, Server, make_adapter

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
if CHROMIUM is None and os.environ.get("CI") != "true":
    pytest.skip("no Chromium here; apt-get install --no-install-recommends chromium", allow_module_level=True)
if os.environ.get("CI") != "true":
    pytest.importorskip("playwright")
from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

ROWS = [("几点开门?", "早上九点。"), ("几点关门?", "晚上八点。"), ("<b>bold</b>?", "<img src=x onerror=alert(1)>")]
STUB_HEALTH = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""  # a stub of a server that is back
SYSTEM = "You answer for the library of a small town, in one sentence."


@pytest.fixture(scope="module", params=BACKENDS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, official_tokenizer_dir: Path
) -> Iterator[Server]:
    """A server of each backend with a key, the base and an adapter whose run kept its rows."""
    home = make_home(tmp_path_factory.mktemp("home"), official_tokenizer_dir)
    config = home / BASE / "config.json"  # long answers, for what happens while one comes
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 4096}))
    run = home / "output/run-1"
    make_adapter(run / "checkpoint-7", home / BASE)
    (run / "args.json").write_text(json.dumps({"system": SYSTEM}))
    turns = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}] for question, answer in ROWS
    ]
    (run / "verdict-rows.jsonl").write_text("\n".join(json.dumps({"messages": each}) for each in turns))
    (run / "rewordings.yaml").write_text("version: 1\nrows:\n- question: 几点开门?\n  ask:\n  - 什么时候开门?\n")
    running = Server(home, "--adapter", "newest", "--max_new_tokens", "3000", MIRROR_API_KEY=KEY, BACKEND=request.param)
    yield running
    running.end()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Callable[..., Page]]:
    """page(**options of the browser's window): the page, opened with the key. Its errors and foreign requests fail."""
    opened: list[Any] = []
    wrong: list[str] = []

    def ask(http: Any) -> None:
        if not http.url.startswith((server.url, "data:")):
            wrong.append(f"asked {http.url}")

    def make(key: str = KEY, **options: Any) -> Page:
        context = browser.new_context(**{"locale": "en-GB", "viewport": {"width": 1280, "height": 800}} | options)
        opened.append(context)
        made = context.new_page()
        made.set_default_timeout(60_000)
        made.on("request", ask)
        made.on("pageerror", lambda error: wrong.append(str(error)))
        made.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
        made.goto(f"{server.url}/#key={key}" if key else f"{server.url}/")
        if key == KEY:
            expect(made.locator("#questions li")).to_have_count(4)
        return made

    yield make
    for context in opened:
        context.close()
    assert wrong == []


def short(page: Page, words: int = 6) -> None:
    """Let the models say a few words: a random one does not end by itself."""

    def shorter(route: Any) -> None:
        route.continue_(post_data=json.dumps({**route.request.post_data_json, "max_tokens": words}))

    page.route("**/v1/chat/completions", shorter)


def done(page: Page) -> None:
    """Wait until all models have answered."""
    expect(page.locator("#send")).to_be_visible(timeout=60_000)
    expect(page.locator(".running")).to_have_count(0)


def test_a_click_asks_both_models_and_shows_what_was_trained(page, server):
    shown = page()
    short(shown)
    assert shown.url == f"{server.url}/"  # the key has left the address bar
    shown.get_by_role("button", name="几点开门?").first.click()
    done(shown)
    said = [each.inner_text() for each in shown.locator(".answer .said").all()]
    expected = [server.ask("几点开门?", model, max_tokens=6) for model in (BASE, "adapter")]
    assert [text.strip() for text in said] == [*(text.strip() for text in expected), "早上九点。"]
    assert [each.inner_text() for each in shown.locator(".answer h3").all()] == [
        f"Base · {BASE}", "Fine-tuned · adapter", "Trained answer",
    ]  # fmt: skip
    assert re.fullmatch(r"\d+\.\d s, 6 tokens · cut at the token limit", shown.locator(".end").first.inner_text())


def test_a_second_turn_sends_the_first_and_a_question_of_the_data_begins_anew(page):
    shown = page()
    short(shown)
    bodies: list[Any] = []
    shown.on("request", lambda http: bodies.append(http.post_data_json) if http.method == "POST" else None)
    shown.locator("#questions button").first.click()
    done(shown)
    shown.fill("#text", "And on Sunday?")
    shown.press("#text", "Enter")
    done(shown)
    assert [len(each["messages"]) for each in bodies] == [1, 1, 3, 3]
    assert {each["model"]: each["messages"][1]["content"] for each in bodies[2:]} == {
        name: shown.locator(f".answer.{role} .said").first.text_content()
        for name, role in ((BASE, "base"), ("adapter", "tuned"))
    }
    shown.locator("#questions button").nth(1).click()
    done(shown)
    assert [len(each["messages"]) for each in bodies[4:]] == [1, 1]
    expect(shown.locator(".turn")).to_have_count(1)


STOP_AT_FIRST_WORD = """() => new MutationObserver(() => {
  if ([...document.querySelectorAll(".said")].some((said) => said.textContent)) document.getElementById("stop").click();
}).observe(document.getElementById("talk"), {childList: true, subtree: true, characterData: true})"""


def test_stop_keeps_what_was_said(page):
    shown = page()
    shown.evaluate(STOP_AT_FIRST_WORD)  # a random model of this size has said all within half a second
    shown.fill("#text", "说一个很长的故事。")
    shown.press("#text", "Enter")
    done(shown)
    assert all("stopped" in each.inner_text() for each in shown.locator(".end").all())
    kept = shown.locator(".turn").inner_text()
    assert any(each.inner_text() for each in shown.locator(".said").all())
    shown.wait_for_timeout(300)
    assert shown.locator(".turn").inner_text() == kept


def test_system_prompts_are_shown(page):
    shown = page()
    prompts = shown.locator(".side details")
    expect(prompts).to_have_count(2)
    prompts.nth(1).locator("summary").click()
    assert prompts.nth(1).locator("p").inner_text() == SYSTEM


def test_texts_of_the_data_are_texts(page):
    shown = page()
    short(shown)
    shown.get_by_role("button", name="<b>bold</b>?").click()
    done(shown)
    assert shown.locator(".reference .said").inner_text() == "<img src=x onerror=alert(1)>"
    assert shown.locator("img, .asked b").count() == 0


def test_questions_are_found_and_walked_through_by_keyboard(page):
    shown = page()
    short(shown)
    assert shown.locator("#kinds button").all_inner_texts() == ["all", "trained", "in other words"]
    shown.get_by_role("button", name="in other words", exact=True).click()
    assert shown.locator("#questions button").all_inner_texts() == ["什么时候开门?in other words"]
    shown.get_by_role("button", name="all", exact=True).click()
    shown.fill("#filter", "八点")  # of its answer
    expect(shown.locator("#questions li")).to_have_count(1)
    shown.fill("#filter", "")
    shown.locator("#questions button").first.focus()
    shown.keyboard.press("ArrowDown")
    shown.keyboard.press("Enter")
    done(shown)
    assert shown.locator(".asked").inner_text() == "几点关门?"
    shown.keyboard.press("/")
    assert shown.evaluate("document.activeElement.id") == "text"
    shown.keyboard.type("one")
    shown.keyboard.press("Shift+Enter")
    assert shown.input_value("#text") == "one\n"
    shown.keyboard.press("Enter")
    shown.keyboard.press("Escape")
    done(shown)


@pytest.mark.parametrize(("locale", "word", "other"), [("zh-CN", "提问", "Ask"), ("en-US", "Ask", "提问")])
def test_it_speaks_the_browsers_language_and_the_other(page, locale, word, other):
    shown = page(locale=locale)
    assert shown.locator("#send").inner_text() == word
    shown.click("#language")
    assert shown.locator("#send").inner_text() == other
    shown.reload()
    expect(shown.locator("#send")).to_have_text(other)


def test_both_languages_have_the_same_words(page):
    keys = page().evaluate("import('/page/words.js').then(({WORDS}) => [Object.keys(WORDS.en), Object.keys(WORDS.zh)])")
    assert keys[0] == keys[1] and len(keys[0]) > 30


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_it_fits_the_window_in_both_themes(page, scheme, width):
    shown = page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    short(shown)
    if width < 900:
        assert not shown.locator("#questions").is_visible()
        shown.click("#drawer summary")
    shown.locator("#questions button").first.click()
    done(shown)
    seen = shown.evaluate(
        """() => {
        const box = (name) => document.querySelector(name).getBoundingClientRect();
        const light = (color) => color.match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + +part, 0) / 3;
        return {over: document.documentElement.scrollWidth - innerWidth,
          beside: box('.answer.base').right <= box('.answer.tuned').left,
          reference: box('.answer.tuned').right <= box('.answer.reference').left,
          send: box('#send').bottom <= innerHeight,
          ground: light(getComputedStyle(document.body).backgroundColor),
          ink: light(getComputedStyle(document.body).color)};
        }"""
    )
    assert seen["over"] <= 0 and seen["send"]
    assert seen["beside"] == (width >= 600) and seen["reference"] == (width >= 1240)
    assert (
        (seen["ground"] > 200 and seen["ink"] < 60)
        if scheme == "light"
        else (seen["ground"] < 60 and seen["ink"] > 200)
    )
    shown.click("#theme")
    assert (shown.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark") == (scheme == "light")


def test_without_a_key_it_asks_for_it_and_tells_a_wrong_one(page):
    shown = page("")
    expect(shown.locator("#key-dialog")).to_be_visible()
    expect(shown.locator("#key-wrong")).to_be_hidden()
    shown.fill("#key", "wrong")
    shown.press("#key", "Enter")
    expect(shown.locator("#key-wrong")).to_be_visible()
    shown.fill("#key", KEY)
    shown.press("#key", "Enter")
    expect(shown.locator("#questions li")).to_have_count(4)
    expect(shown.locator("#key-dialog")).to_be_hidden()
    shown.reload()  # the tab has kept it
    expect(shown.locator("#questions li")).to_have_count(4)
    assert shown.evaluate("JSON.stringify(localStorage)") == "{}"


def test_what_the_server_refuses_is_said(page):
    shown = page()
    shown.fill("#text", "你好" * 40_000)
    shown.press("#text", "Enter")
    done(shown)
    assert "larger than the max_length" in shown.locator(".end.wrong").first.inner_text()
    assert shown.input_value("#text").startswith("你好")  # to be shortened


def test_a_server_that_is_gone_is_said_and_found_again(page, server):
    """The last test: it ends the server."""
    shown = page()
    shown.fill("#text", "说一个很长的故事。")
    shown.press("#text", "Enter")
    expect(shown.locator(".answer .said").first).not_to_be_empty()
    for child in subprocess.run(
        ["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True, check=False
    ).stdout.split():
        os.kill(int(child), 9)
    done(shown)
    assert "was cut off" in shown.locator(".end.wrong").first.inner_text()
    expect(shown.locator("#problem")).to_contain_text("does not answer")
    server.process.wait(60)
    port = server.url.rsplit(":", 1)[1]
    stub = subprocess.Popen([sys.executable, "-c", STUB_HEALTH, port], stderr=subprocess.DEVNULL)
    try:
        expect(shown.locator("#problem")).to_be_hidden(timeout=20_000)
    finally:
        stub.kill()
        stub.wait()
