"""Real servers of both backends on a tiny random model with an adapter, asked with the `openai` package."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.unit.finetune.real_swift import ROOT, make_home
from tests.unit.qwen2.tiny import random_adapter

openai = pytest.importorskip("openai")
BASE, KEY = "Qwen2.5-7B-Instruct", "s3cret-key"
BACKENDS = {"fast": "backend: qwen2's engine", "swift": "backend: ms-swift"}


def make_adapter(folder: Path, model: Path) -> None:
    """An adapter that changes the answers; args.json is what ms-swift leaves beside one."""
    random_adapter(model, ["q_proj", "down_proj"], 0.5).save(folder)
    settings = {"model_type": "qwen2", "template": "qwen2_5", "system": "Be kind.", "tuner_type": "lora"}
    (folder / "args.json").write_text(json.dumps(settings))


class Server:
    """serve.sh's Python in a process of its own, and a client of it."""

    def __init__(self, home: Path, *words: str, **environ: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self.log = home / f"serve-{self.url.rsplit(':', 1)[1]}.log"
        env = {**os.environ, "PYTHONPATH": str(ROOT), "MODEL_DIR": str(home / BASE), "MIRROR_DEVICE": "cpu"}
        env |= {"OUTPUT_DIR": str(home / "output"), "MIRROR_RUN_DIR": str(self.log.with_suffix(".run"))}
        env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environ}
        command = [
            sys.executable,
            "-m",
            "finetune.commands.serve",
            "--config",
            str(ROOT / "workspace/configs/serve.yaml"),
        ]
        command += ["--port", self.url.rsplit(":", 1)[1], *words]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=home, env=env, stdout=log, stderr=log)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        import httpx

        deadline = time.monotonic() + 180
        while True:
            try:
                assert httpx.get(f"{self.url}/health").status_code == 200
                return
            except httpx.HTTPError:
                assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-4000:]
                time.sleep(0.2)

    def client(self, key: str = KEY) -> Any:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=120)

    def ask(self, question: str, model: str = BASE, **options: Any) -> str:
        """The answer, put together where it is streamed."""
        options = {"max_tokens": 12, "temperature": 0} | options
        messages = [{"role": "user", "content": question}]
        done = self.client().chat.completions.create(model=model, messages=messages, **options)
        if not options.get("stream"):
            return done.choices[0].message.content
        return "".join(chunk.choices[0].delta.content or "" for chunk in done if chunk.choices)

    def end(self) -> None:
        """Where it still runs. No SIGKILL: the server would outlive the command that watches it."""
        if self.process.poll() is None:
            self.stop()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, official_tokenizer_dir: Path) -> Path:
    """A home with a model, and a run with an adapter."""
    folder = make_home(tmp_path_factory.mktemp("home"), official_tokenizer_dir)
    config = folder / BASE / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 4096}))
    make_adapter(folder / "output/run-1/checkpoint-7", folder / BASE)
    return folder


@pytest.fixture(scope="module", params=BACKENDS)
def server(home: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with a key, the base and the adapter; one after the other of each backend."""
    running = Server(home, "--adapter", "newest", MIRROR_API_KEY=KEY, BACKEND=request.param)
    assert BACKENDS[request.param] in running.log.read_text()
    yield running
    running.end()


def test_base_and_adapter_are_chosen_by_name(server):
    assert [model.id for model in server.client().models.list()] == [BASE, "adapter"]
    base, adapter = server.ask("你是谁?"), server.ask("你是谁?", "adapter")
    assert base and adapter and base != adapter
    assert server.ask("你是谁?") == base


@pytest.mark.parametrize("model", [BASE, "adapter"])
def test_a_stream_says_the_same(server, model):
    assert server.ask("你是谁?", model, stream=True) == server.ask("你是谁?", model)


def test_many_at_once_get_their_own_answers(server):
    asked = [(f"第{number}题?", (BASE, "adapter")[number % 2], {"stream": number % 4 > 1}) for number in range(24)]
    alone = [server.ask(question, model, **options) for question, model, options in asked]
    assert len(set(alone)) > 12
    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(lambda each: server.ask(each[0], each[1], **each[2]), asked))
    assert together == alone


@pytest.mark.parametrize("key", ["wrong", KEY + "x", KEY[:-1]])
def test_a_wrong_key_is_401(server, key):
    with pytest.raises(openai.AuthenticationError, match="asks for an API key"):
        server.client(key).chat.completions.create(model=BASE, messages=[{"role": "user", "content": "x"}])


def post(server: Server, body: bytes, path: str = "/v1/chat/completions", key: str | None = KEY) -> tuple[int, Any]:
    """Status and JSON of a raw request."""
    import httpx

    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    done = httpx.post(server.url + path, content=body, headers=headers, timeout=60)
    return done.status_code, done.json()


def message(content: str, **fields: Any) -> bytes:
    """The body of a chat request."""
    return json.dumps(
        {"model": BASE, "messages": [{"role": "user", "content": content}], "max_tokens": 4, **fields}
    ).encode()


PICTURE = [{"type": "image_url", "image_url": {"url": "http://192.0.2.1/x.png"}}, {"type": "text", "text": "x"}]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (message("x" * 10_000_000), 413, "longer than 1024 KiB: shorten the prompt"),
        (message("你好" * 9000), 400, "larger than the max_length"),
        (message("你好" * 9000, stream=True), 400, "larger than the max_length"),
        (message("x")[:20], 422, "JSON decode error"),
        (b"\xff\xfe", 400, ""),
        (b"[" * 100_000, 400, ""),
        (message("x", model="gpt-4"), 400, "gpt-4"),
        (message("x", messages=[]), 400, "messages"),
        (message("x", temperature="hot"), 422, "body.temperature"),
        (message("x", max_tokens=-1), 400, "max_new_tokens"),
        (b"{}", 422, "body.model"),
        (message("x", messages=[{"role": "user", "content": PICTURE}]), 400, "text only"),
        (message("x", images=["http://192.0.2.1/x.png"]), 400, "text only"),
    ],
)
def test_what_cannot_be_answered_is_a_4xx_with_a_message_and_the_server_goes_on(server, body, status, says):
    got, answer = post(server, body)
    assert got == status or (not says and 400 <= got < 500), answer
    assert says in answer["message"]
    assert server.ask("你是谁?")


def test_nothing_is_told_without_the_key(server):
    for path in ("/v1/chat/completions", "/infer/", "/v1/embeddings"):
        assert post(server, message("x"), path, None)[0] == 401


def test_an_unusable_request_fails_alone(server):
    """ms-swift answers them together, and by itself lets one that is too long fail all."""
    alone = server.ask("第1题?")
    with ThreadPoolExecutor(8) as pool:
        bad = [pool.submit(post, server, message("x", messages=[], temperature=0, max_tokens=12)) for _ in range(3)]
        good = [pool.submit(server.ask, "第1题?") for _ in range(5)]
        assert {each.result() for each in good} == {alone}
        assert {each.result()[0] for each in bad} == {400}


def test_the_adapter_is_served_while_the_base_is_asked_without_a_pause(server):
    """ms-swift by itself serves the first group of equal requests until none is left of it."""
    over = threading.Event()

    def keep_asking() -> None:
        while not over.is_set():
            server.ask("第1题?", max_tokens=24)

    with ThreadPoolExecutor(20) as pool:
        busy = [pool.submit(keep_asking) for _ in range(20)]
        time.sleep(1)
        begun = time.monotonic()
        try:
            assert server.ask("你是谁?", "adapter")
        finally:
            took = time.monotonic() - begun
            over.set()
        assert took < 20
        assert [each.result() for each in busy] == [None] * 20


def test_the_key_and_the_questions_are_not_in_the_log(server):
    server.ask("a-question-of-somebody")
    log = server.log.read_text()
    assert KEY not in log and "a-question-of-somebody" not in log


def test_the_key_is_not_on_the_command_line(server):
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert KEY.encode() not in path.read_bytes()
        except OSError:
            continue


def test_the_probe_sees_the_job(server):
    record = json.loads((server.log.with_suffix(".run") / "job.json").read_text())
    assert record["name"] == "serve"
    assert record["stale_s"] == 0  # no one asks for hours, and it is not stuck


def test_sigterm_answers_what_has_begun(server):
    """The last test: it ends the server."""
    long = {"max_tokens": 400}
    with ThreadPoolExecutor(6) as pool:
        whole = pool.submit(server.ask, "说一个很长的故事。", **long)
        stream = pool.submit(server.ask, "说一个很长的故事。", stream=True, **long)
        adapter = pool.submit(server.ask, "说一个很长的故事。", "adapter", **long)
        time.sleep(0.5)
        assert not (whole.done() and stream.done() and adapter.done()), "nothing is in flight: the test shows nothing"
        assert server.stop() == 0, server.log.read_text()[-4000:]
        assert whole.result() == stream.result() and adapter.result()
    log = server.log.read_text()
    assert (
        "0 in flight" in log and "serve: stopped" in log and 'Traceback (most recent call last):\n  File "<' not in log
    )
    with pytest.raises(openai.APIConnectionError):
        server.ask("x")
