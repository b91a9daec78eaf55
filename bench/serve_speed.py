"""Tokens a second and waits of serve.sh, for 1 to 128 clients, base alone, beside two adapters, and mixed prompts.

    python -m bench.serve_speed [--backends fast swift] [--clients 1 8 32 128] [--tokens 128] [--rounds 4]

It makes two random adapters, starts serve.sh with each backend on a free port, and for each number of clients lets
every client ask `rounds` questions of its own, one after the other, with answers of `tokens` tokens at most, streamed.
Clients run in processes of their own and only look for the first token and the usage at the end: what is measured is
the server. Tokens a second are all tokens of the answers over the time from the first question to the last answer. One
line of JSON a measurement. With random weights an answer now and then ends early; tokens are counted, not assumed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.endpoint import Server
from bench.machine import device, gpu_mib
from bench.random_weights import make_adapter
from bench.serve_load import quantile

ROOT = Path(__file__).resolve().parents[1]
PROCESSES = 8  # of clients
ADAPTERS = ("one", "two")
WORDS = ("数据", "模型", "训练", "请", "说明", "如何", "红色", "河流", "北京", "音乐", "计算", "方法", "为什么", "故事")


@dataclass(frozen=True)
class TimedAnswer:
    """One answer: the client, the model, tokens of prompt and answer, seconds to the first token and to the end."""

    client: int
    model: str
    prompt_tokens: int
    tokens: int
    first_s: float
    seconds: float
    error: str = ""


def question(client: int, number: int, words: int) -> str:
    """A text of that many words with a unique beginning."""
    drawn = random.Random(client * 1000 + number)
    return f"{client}-{number}: " + "".join(drawn.choice(WORDS) for _ in range(max(1, words)))


async def ask(api: Any, url: str, client: int, model: str, text: str, tokens: int) -> TimedAnswer:
    """Send one streamed request; only the last event is parsed."""
    body = {
        "model": model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    began, first, tail = time.perf_counter(), 0.0, b""
    try:
        async with api.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            async for part in response.aiter_raw():
                # The first chunk has only the role; a token's chunk has non-empty content.
                if not first and (tail + part).count(b'"content"') > 1:
                    first = time.perf_counter() - began
                tail = (tail + part)[-2000:]
        lines = [line for line in tail.decode("utf-8", "replace").split("\n") if line.startswith("data: {")]
        usage = json.loads(lines[-1][6:])["usage"]
        taken = time.perf_counter() - began
        return TimedAnswer(client, model, usage["prompt_tokens"], usage["completion_tokens"], first or taken, taken)
    except Exception as error:
        return TimedAnswer(
            client, model, 0, 0, 0.0, time.perf_counter() - began, f"{type(error).__name__}: {error}"[:200]
        )


async def one_client(
    url: str, client: int, models: Sequence[str], words: Sequence[int], rounds: int, tokens: int
) -> list[TimedAnswer]:
    """Send a client's questions, one after the other."""
    import httpx

    found = []
    async with httpx.AsyncClient(timeout=600, trust_env=False) as api:
        for number in range(rounds):
            text = question(client, number, words[(client + number) % len(words)])
            found.append(await ask(api, url, client, models[client % len(models)], text, tokens))
    return found


def some_clients(
    url: str, clients: list[int], models: list[str], words: list[int], rounds: int, tokens: int, start: float
) -> list[TimedAnswer]:
    """In a separate process: run these clients at the same time, from `start` on."""

    async def all_of_them() -> list[TimedAnswer]:
        import httpx  # noqa: F401  # imported before the clock runs

        await asyncio.sleep(max(0.0, start - time.time()))
        found = await asyncio.gather(*(one_client(url, each, models, words, rounds, tokens) for each in clients))
        return [each for group in found for each in group]

    return asyncio.run(all_of_them())


def measure(
    pool: Any, url: str, clients: int, models: list[str], words: list[int], rounds: int, tokens: int
) -> dict[str, Any]:
    """Run all clients at the same time; returns the result."""
    start = time.time() + 0.3
    shares = [list(range(clients))[number::PROCESSES] for number in range(PROCESSES)]
    work = [(url, share, models, words, rounds, tokens, start) for share in shares if share]
    found = [each for group in pool.starmap(some_clients, work) for each in group]
    taken = time.time() - start
    good = [each for each in found if not each.error]
    waits, ends = sorted(each.first_s for each in good), sorted(each.seconds for each in good)
    made = sum(each.tokens for each in good)
    of_client = [sum(each.tokens for each in good if each.client == client) for client in range(clients)]
    return {
        "clients": clients,
        "answers": len(good),
        "lost": len(found) - len(good),
        "errors": [each.error for each in found if each.error][:2],
        "tokens": made,
        "tokens_per_s": round(made / taken, 1),
        "prompt_tokens": [min(p := [each.prompt_tokens for each in good] or [0]), max(p)],
        "first_token_s": {"p50": quantile(waits, 0.5), "p99": quantile(waits, 0.99)},
        "answer_s": {"p50": quantile(ends, 0.5), "p99": quantile(ends, 0.99)},
        "fewest_tokens_of_a_client": min(of_client),
    }


def make_adapters(model: Path, folder: Path) -> dict[str, Path]:
    """{name: folder} of two random adapters."""
    return {
        name: make_adapter(model, folder / name / "checkpoint-1", seed, alpha=16, scale=0.02)
        for seed, name in enumerate(ADAPTERS)
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", default=["fast"], choices=("fast", "swift", "vllm"))
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--mixed", nargs="*", type=int, default=[32, 128], help="clients of half base, half adapters")
    parser.add_argument("--long", type=int, default=32, help="clients with prompts of 40 to 2500 tokens; 0: none")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--serve", default=str(ROOT / "workspace/serve.sh"), help="the script that serves")
    parser.add_argument("--option", nargs="*", default=[], help="words for serve.sh, such as =--max_batch_size=64")
    args = parser.parse_args()
    model = Path(os.environ.get("MODEL_DIR") or "/root/Qwen2.5-7B-Instruct")
    with tempfile.TemporaryDirectory() as name, multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        adapters = make_adapters(model, Path(name))
        words = [each for adapter in adapters.items() for each in ("--adapter", "=".join(map(str, adapter)))]
        words += [each.lstrip("=") for each in args.option]
        for backend in args.backends:
            server = Server(args.serve, words, Path(name) / "log", BACKEND=backend)
            try:
                report(args, backend, server, pool)
            finally:
                code = server.stop()
                lines = [line for line in server.log.read_text().splitlines() if line.startswith(("serve:", "error:"))]
                print(json.dumps({"backend": backend, "exit_code": code, "log": lines[-6:]}, ensure_ascii=False))
    return 0


def report(args: argparse.Namespace, backend: str, server: Server, pool: Any) -> None:
    """All measurements of one backend, one line each."""
    base, *adapters = server.models()
    both = [base, adapters[0], base, adapters[1]]
    about = {"backend": backend, "device": device(), "date": time.strftime("%Y-%m-%d")}
    print(json.dumps(about | {"ready_s": round(server.ready_s, 2), "gpu_mib": gpu_mib()}), flush=True)
    measure(pool, server.url, 2, [base], [20], 1, 8)  # loads the kernels of the first request
    plan = [("base", count, [base], [15]) for count in args.clients]
    plan += [("half base, half two adapters", count, both, [15]) for count in args.mixed]
    if args.long:
        plan.append(("prompts of 40 to 2500 tokens", args.long, both, [8, 40, 150, 600, 8, 1200, 2500, 8]))
    for what, count, models, words in plan:
        found = measure(pool, server.url, count, models, words, args.rounds, args.tokens)
        print(json.dumps(about | {"what": what} | found | {"gpu_mib": gpu_mib()}, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    sys.exit(main())
