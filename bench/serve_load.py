"""Load an endpoint of serve.sh: many clients for minutes, no answer lost or mixed up, memory flat, SIGTERM loses none.

    python -m bench.serve_load [--clients 32] [--seconds 300] [-- OPTIONS OF serve.sh]

It starts serve.sh (by default with --adapter newest) on a free port of 127.0.0.1. First every client's question is
asked alone: that is its known greedy answer, and all of them differ. Then all clients ask at once, each its own
question, the base and the adapters in turn, half of them streaming. At the end SIGTERM is sent under load: what was
asked GRACE_S or more before must still be answered; what came later may be refused, but not be answered wrongly.
Prints one line of JSON and a verdict; exit 1 when a bar is missed. Needs the `openai` package, which ms-swift brings.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.endpoint import Server
from bench.machine import device, gpu_mib

ROOT = Path(__file__).resolve().parents[1]
GRACE_S = 1.0
GROWTH_MIB = 64  # of resident memory between the first and the last third of the load; less counts as flat


@dataclass
class LoadClient:
    """One client: its model and question, the only correct answer, and what it received."""

    number: int
    model: str
    question: str
    stream: bool
    expected: str = ""
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    refused: int = 0
    first_token: list[float] = field(default_factory=list)


class Memory:
    """Resident memory (MiB) of a process and its descendants, and of the GPU if there is one, once per second."""

    def __init__(self, pid: int) -> None:
        self.pid, self.samples, self.gpu = pid, [], []  # type: ignore[var-annotated]

    async def watch(self, over: asyncio.Event) -> None:
        """Sample until `over`."""
        while not over.is_set():
            self.samples.append(sum(_rss(pid) for pid in _tree(self.pid)) / 2**20)
            self.gpu.append(gpu_mib())
            await asyncio.sleep(1)

    def thirds(self) -> tuple[float, float]:
        """Medians of the first and the last third."""
        part = max(1, len(self.samples) // 3)
        return statistics.median(self.samples[:part]), statistics.median(self.samples[-part:])


def _tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        found += [each for child in children for each in _tree(int(child))]
    return found


def _rss(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def questions(folder: Path) -> list[str]:
    """Questions with short, mostly different answers: sums, and those of the workspace."""
    import yaml

    found = [f"{a}加{b}等于几?" for a in range(2, 10) for b in range(a, 10)]
    for name in ("general", "identity"):
        data = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
        found += [each["question"] for each in data.get("questions", data.get("heldout", [])) if "question" in each]
    return found


async def ask(api: Any, client: LoadClient, max_tokens: int) -> str:
    """Send one request; returns the whole answer."""
    messages = [{"role": "user", "content": client.question}]
    options: dict[str, Any] = {"model": client.model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
    if not client.stream:
        done = await api.chat.completions.create(**options)
        return done.choices[0].message.content
    begun, parts, finished = time.monotonic(), [], False
    async for chunk in await api.chat.completions.create(stream=True, **options):
        if not parts:
            client.first_token.append(time.monotonic() - begun)
        if chunk.choices:
            parts.append(chunk.choices[0].delta.content or "")
            finished = finished or chunk.choices[0].finish_reason is not None
    if not finished:
        raise ConnectionError("the stream ended before the answer did")
    return "".join(parts)


async def known_answers(api: Any, models: list[str], asked: list[str], count: int, max_tokens: int) -> list[LoadClient]:
    """Clients whose answers, requested alone, all differ. Raises SystemExit if there are too few."""
    found: list[LoadClient] = []
    seen: set[str] = set()
    for question in asked:
        number = len(found)
        if number == count:
            break
        client = LoadClient(number, models[number % len(models)], question, stream=number // len(models) % 2 == 1)
        client.expected = await ask(api, client, max_tokens)
        if client.expected not in seen:
            seen.add(client.expected)
            found.append(client)
    if len(found) < count:
        raise SystemExit(f"only {len(found)} questions have answers of their own; ask with fewer --clients")
    for client in found:
        client.first_token.clear()
    return found


async def load(api: Any, client: LoadClient, max_tokens: int, stop: dict[str, float]) -> None:
    """Send requests until the server is told to stop and refuses."""
    import openai

    while True:
        begun = time.monotonic()
        try:
            answer = await ask(api, client, max_tokens)
        except (openai.APIError, ConnectionError) as error:
            if "sigterm" in stop and begun > stop["sigterm"] - GRACE_S:
                client.refused += 1
                return
            client.lost.append(f"{type(error).__name__}: {error}")
            if "sigterm" in stop:
                return
            await asyncio.sleep(0.5)
            continue
        client.seconds.append(time.monotonic() - begun)
        if answer != client.expected:
            client.wrong.append(answer)


async def run(args: argparse.Namespace, server: Server) -> dict[str, Any]:
    """The whole measurement on a server that is ready."""
    import httpx
    import openai

    # One connection per request: a kept one that the server closes during a send would look like a lost answer.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    pool = httpx.AsyncClient(limits=limits, timeout=httpx.Timeout(600))
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, http_client=pool) as api:
        models = [model.id async for model in api.models.list()]
        asked = questions(Path(args.serve).parent / "questions")
        clients = await known_answers(api, models, asked, args.clients, args.max_tokens)
        over, stop = asyncio.Event(), {}  # type: ignore[var-annotated]
        memory = Memory(server.process.pid)
        watching = asyncio.create_task(memory.watch(over))
        began = time.monotonic()
        working = [asyncio.create_task(load(api, client, args.max_tokens, stop)) for client in clients]
        await asyncio.sleep(args.seconds)
        over.set()
        await watching
        elapsed = time.monotonic() - began
        before = sum(len(client.seconds) for client in clients)
        stop["sigterm"] = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*working)
        code = await asyncio.to_thread(server.process.wait, 120)
        drained = time.monotonic() - stop["sigterm"]
    taken = sorted(second for client in clients for second in client.seconds)
    tokens = sorted(second for client in clients for second in client.first_token)
    first, last = memory.thirds()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": device(),
        "models": models,
        "clients": args.clients,
        "seconds": round(elapsed, 1),
        "answers": before,
        "answers_per_s": round(before / elapsed, 2),
        "p50_s": round(statistics.median(taken), 3),
        "p99_s": quantile(taken, 0.99),
        "max_s": round(taken[-1], 3),
        "first_token_p50_s": round(statistics.median(tokens), 3) if tokens else None,
        "fewest_of_a_client": min(len(client.seconds) for client in clients),
        "wrong": sum(len(client.wrong) for client in clients),
        "lost": sum(len(client.lost) for client in clients),
        "examples": [text for client in clients for text in (client.wrong + client.lost)][:3],
        "rss_mib_first_third": round(first, 1),
        "rss_mib_last_third": round(last, 1),
        "gpu_mib_peak": max((each for each in memory.gpu if each is not None), default=None),
        "sigterm": {
            "answered_after": len(taken) - before,
            "refused_after": sum(client.refused for client in clients),
            "seconds_to_end": round(drained, 1),
            "exit_code": code,
        },
    }


def quantile(ordered: list[float], part: float) -> float | None:
    """A quantile of the sorted values, to three digits; None if there are none."""
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * part))], 3) if ordered else None


def verdict(figures: dict[str, Any]) -> list[str]:
    """The bars that were missed."""
    missed = []
    if figures["wrong"] or figures["lost"]:
        missed.append(f"{figures['wrong']} answers wrong, {figures['lost']} lost: {figures['examples']}")
    if not figures["fewest_of_a_client"]:
        missed.append("a client got no answer at all")
    growth = figures["rss_mib_last_third"] - figures["rss_mib_first_third"]
    if growth > GROWTH_MIB:
        missed.append(f"memory grew by {growth:.0f} MiB (bar {GROWTH_MIB})")
    if figures["sigterm"]["exit_code"] != 0:
        missed.append(f"exit code {figures['sigterm']['exit_code']} after SIGTERM")
    return missed


def main() -> int:
    """Start the server, load it, print."""
    argv = sys.argv[1:]
    words = argv[argv.index("--") + 1 :] if "--" in argv else ["--adapter", "newest"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--serve", default=str(ROOT / "workspace/serve.sh"), help="the script that serves")
    args = parser.parse_args(argv[: argv.index("--")] if "--" in argv else argv)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(args.serve, words, Path(folder) / "log")
        try:
            figures = asyncio.run(run(args, server))
        except BaseException:
            print(server.tail(), file=sys.stderr)
            raise
        finally:
            server.stop()
    print(json.dumps(figures, ensure_ascii=False))
    missed = verdict(figures)
    print("met: no answer lost or mixed up, memory flat, SIGTERM loses none" if not missed else "\n".join(missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
