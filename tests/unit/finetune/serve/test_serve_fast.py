"""The fast backend with clients that leave, lie or break off, at its engine's death, and held to verify's tokens."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.unit.finetune.serve.test_serve_server import BASE, KEY, Server, home, message, openai, post

__all__ = ["home"]  # a fixture
CLIENTS = 32


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    """The fast backend with the base and an adapter."""
    running = Server(home, "--adapter", "newest", MIRROR_API_KEY=KEY, BACKEND="fast")
    yield running
    running.end()


def figures(server: Server) -> dict[str, float]:
    """What /metrics says of the engine."""
    import httpx

    text = httpx.get(f"{server.url}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
    return {line.split(" ")[0]: float(line.split(" ")[1]) for line in text.splitlines() if not line.startswith("#")}


def wait_until_idle(server: Server) -> dict[str, float]:
    """The figures when nothing is under way."""
    deadline = time.monotonic() + 30
    while True:
        server.ask("是?", max_tokens=1)  # the engine tells of its load when it has said something
        found = figures(server)
        if not found["mirror_rows_running"] + found["mirror_requests_waiting"] + found["mirror_cache_pages_used"]:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def leave(server: Server, stream: bool) -> None:
    """Ask for a long answer over a bare socket and close it before the end."""
    host, port = server.url.removeprefix("http://").split(":")
    body = message("说一个很长的故事。", max_tokens=3000, stream=stream)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}"
    )
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + body)
        if stream:
            assert connection.recv(200)
        time.sleep(0.2)


def test_answers_are_verifys_alone_and_among_others(server, home):
    from finetune.verify.engine import Ask, Qwen2Engine

    engine = Qwen2Engine(home / BASE, "cpu")
    system = "Be kind."  # what make_adapter says that it was trained under
    questions = [f"第{number}题?" * (1 + number % 5) for number in range(24)]
    asks = [Ask(({"role": "user", "content": each},), system, 12) for each in questions]
    adapter = engine.adapter(home / "output/run-1/checkpoint-7")
    right = [answer.text for answer in engine.answer(asks, adapter, lambda _: None)]
    assert [server.ask(each, "adapter").strip() for each in questions[:4]] == right[:4]
    with ThreadPoolExecutor(CLIENTS) as pool:
        others = [pool.submit(server.ask, f"别的{number}", max_tokens=60) for number in range(8)]
        found = list(pool.map(lambda each: server.ask(each, "adapter").strip(), questions))
        assert all(other.result() for other in others)
    assert found == right and len(set(right)) > 12


def test_clients_that_leave_lie_or_break_off_harm_nobody(server):
    alone = {number: server.ask(f"第{number}题?", max_tokens=30) for number in range(8)}
    over = threading.Event()
    wrong: list[str] = []

    def honest(number: int) -> int:
        count = 0
        while not over.is_set():
            count += 1
            if server.ask(f"第{number}题?", max_tokens=30, stream=number % 2 > 0) != alone[number]:
                wrong.append(f"{number}")
        return count

    def bad(number: int) -> None:
        kind = number % 6
        while not over.is_set():
            if kind < 2:
                leave(server, stream=kind == 1)
            elif kind == 2:
                assert post(server, message("x"), key="wrong")[0] == 401
            elif kind == 3:
                assert post(server, message("x" * 2_000_000))[0] == 413
            elif kind == 4:
                assert post(server, message("x")[:-9])[0] == 422
            else:
                assert post(server, message("你好" * 9000))[0] == 400

    with ThreadPoolExecutor(CLIENTS) as pool:
        working = [pool.submit(honest, number) for number in alone]
        weather = [pool.submit(bad, number) for number in range(CLIENTS - len(alone))]
        time.sleep(6)
        over.set()
        assert all(each.result(60) for each in working) and not wrong
        for each in weather:
            each.result(60)
    found = wait_until_idle(server)
    assert found['mirror_requests_total{path="/v1/chat/completions",status="499"}'] >= 1
    log = server.log.read_text()
    assert "Traceback" not in log, log[-3000:]


def test_memory_is_flat(server):
    """Of both processes, from the second hundred answers on to the fourth."""

    def resident() -> int:
        record = json.loads((server.log.with_suffix(".run") / "job.json").read_text())
        total = 0
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if os.getpgid(int(path.name)) == record["group"]:
                    total += int((path / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except OSError:
                continue
        return total

    sizes = []
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            list(pool.map(lambda number: server.ask(f"第{number}题?", max_tokens=4), range(100)))
            sizes.append(resident())
    assert sizes[0] > 2**26 and sizes[2] - sizes[0] < 24 * 2**20, sizes


def test_the_adapters_own_system_prompt_is_shared_by_its_prompts(server):
    before = wait_until_idle(server)["mirror_shared_prompt_tokens_total"]
    text = "很长的同一个开头。" * 40
    for number in range(3):
        server.ask(f"{text}{number}", max_tokens=1)
    assert wait_until_idle(server)["mirror_shared_prompt_tokens_total"] - before > 300


def test_stop_and_length_and_logprobs(server):
    answer = server.ask("你是谁?", max_tokens=12)
    done = server.client().chat.completions.create(
        model=BASE, messages=[{"role": "user", "content": "你是谁?"}], max_tokens=12, temperature=0, logprobs=True,
        top_logprobs=2, seed=1,
    )  # fmt: skip
    tokens = done.choices[0].logprobs.content
    assert done.choices[0].message.content == answer and len(tokens) == done.usage.completion_tokens
    assert all(len(each.top_logprobs) == 2 and each.logprob == each.top_logprobs[0].logprob for each in tokens)
    assert b"".join(bytes(each.bytes) for each in tokens).decode("utf-8", "replace") == answer
    stop = answer[4:6]
    for stream in (False, True):
        assert server.ask("你是谁?", stop=stop, stream=stream) == answer[: answer.index(stop)]


@pytest.mark.parametrize("stream", [False, True])
def test_a_seed_gives_the_same_answers_and_n_different_ones(server, stream):
    """Of 20 tokens: among 150,000 that are equally likely, the last bit of a sum would decide."""

    def answers(seed: int) -> list[str]:
        done = server.client().chat.completions.create(
            model=BASE, messages=[{"role": "user", "content": "你是谁?"}], n=3, max_tokens=8, temperature=1.5,
            seed=seed, stream=stream, extra_body={"top_k": 20},
        )  # fmt: skip
        if not stream:
            return [choice.message.content for choice in done.choices]
        texts = ["", "", ""]
        for chunk in done:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        return texts

    assert answers(5) == answers(5) != answers(6)
    assert len(set(answers(5))) == 3


def test_the_end_of_the_engine_is_said_and_ends_the_server(server):
    """The last test: it ends the server."""
    record = json.loads((server.log.with_suffix(".run") / "job.json").read_text())
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(server.ask, "说一个很长的故事。", max_tokens=3000)
        time.sleep(1)
        children = Path(f"/proc/{record['group']}/task/{record['group']}/children").read_text().split()
        (engine,) = (pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(int(engine), signal.SIGKILL)
        with pytest.raises(openai.APIError, match="the engine has ended"):
            asked.result(30)
    assert server.process.wait(30) == 1
    assert "the engine has ended; its last lines above say why" in server.log.read_text()
