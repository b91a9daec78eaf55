"""What a step of the serving engine takes on this GPU, and whether its tokens are those of qwen2.generate.

    python -m bench.serve_steps MODEL_DIR [--rows 128] [--context 200] [--same 24]

One line of JSON each: seconds of loading and of capturing, milliseconds a step for each number of rows, with and
without two adapters, for contexts of that many tokens; milliseconds a piece of prompts; then answers to random prompts,
alone and all at once, held to generate()'s. Where they part, the gap between the two likeliest tokens says whether
rounding can be the cause.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.serve_speed import make_adapters, question
from qwen2.chat import Tokenizer
from qwen2.generate import generate
from qwen2.lora import Adapter
from qwen2.model import Model
from qwen2.serving.adapters import Adapters
from qwen2.serving.batch import BUCKETS, Batch, PromptPiece
from qwen2.serving.pages import pages_for
from qwen2.serving.request import Request
from qwen2.serving.scheduler import Scheduler


def timed(work: Callable[[], Any], times: int) -> float:
    """Milliseconds per call, by the GPU's clock."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    work()
    begin.record()
    for _ in range(times):
        work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / times


def steps(batch: Batch, context: int, times: int) -> None:
    """Milliseconds per step; every row has `context` tokens."""
    need = pages_for(context + times + 2)
    for slot in range(batch.rows):
        pages = batch.keys.shape[1] - 1  # rows may share them here: nobody reads the output
        batch.begin(slot, slot % 3, [1 + (slot * need + each) % pages for each in range(need)])
    for lora in (False, True):
        found = {}
        for size in [each for each in BUCKETS if each < batch.rows] + [batch.rows]:
            batch.position.fill_(context)
            slots = list(range(size))
            found[size] = round(timed(lambda slots=slots, lora=lora: batch.step(slots, 0, lora, []), times), 3)
        print(json.dumps({"context": context, "adapters": lora, "ms_a_step": found}), flush=True)


def pieces(batch: Batch) -> None:
    """Milliseconds per piece of prompts."""
    for lengths, start in (([40] * 4, 0), ([512], 0), ([512], 2048), ([40] * 13, 0), ([2048], 0)):
        laid, page = [], 1
        for slot, length in enumerate(lengths):
            count = pages_for(start + length)
            laid.append(PromptPiece(slot, slot % 3, [1000] * length, start, range(page, page + count), True))
            page += count
        ms = {
            lora: round(timed(lambda laid=laid, lora=lora: batch.prefill(laid, lora, []), 5), 2)
            for lora in (False, True)
        }
        print(json.dumps({"piece": [lengths[0], len(lengths)], "behind": start, "ms": ms}), flush=True)


def same(scheduler: Scheduler, model: Model, adapters: list[Adapter], prompts: list[list[int]], tokens: int) -> None:
    """Answers from the engine, alone and all at once, and from generate()."""
    count = len(prompts)
    said: dict[str, dict[int, list[int]]] = {}
    for name, groups in (("at once", [list(range(count))]), ("alone", [[n] for n in range(min(count, 6))])):
        said[name] = {n: [] for group in groups for n in group}
        for group in groups:
            for n in group:
                scheduler.add(Request(n, prompts[n], tokens, n % 3))
            while not scheduler.idle:
                for each in scheduler.step():
                    if each.token is not None:
                        said[name][each.id].append(each.token)
    scheduler.batch.keys = scheduler.batch.values = torch.empty(0)
    wanted: dict[int, list[int]] = {}
    for number, adapter in enumerate([None, *adapters]):
        mine = [n for n in range(count) if n % 3 == number]
        wanted.update(zip(mine, generate(model, [prompts[n] for n in mine], tokens, adapter=adapter), strict=True))
    # How often rounding alone changes answers: generate() against itself, one row at a time.
    own = [None, *adapters]
    said["generate, a row at a time"] = {
        n: generate(model, [prompts[n]], tokens, adapter=own[n % 3])[0] for n in range(min(count, 6))
    }
    for name, answers in said.items():
        parted, gaps = 0, []
        for n, answer in answers.items():
            if answer != wanted[n]:
                parted += 1
                at = next((i for i, (a, b) in enumerate(zip(answer, wanted[n], strict=False)) if a != b), -1)
                ids = torch.tensor([[*prompts[n], *wanted[n][:at]]])
                top = model(ids, own[n % 3])[0, -1].float().topk(2).values.tolist()
                gaps.append(round(top[0] - top[1], 4))
        gaps.sort()
        print(json.dumps({"answers": name, "of": len(answers), "parted": parted, "gaps": gaps}), flush=True)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--context", type=int, nargs="+", default=[200])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--same", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    begin = time.perf_counter()
    model = Model.load(args.model, "cuda")
    loaded = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        adapters = [Adapter.load(path, model) for path in make_adapters(args.model, Path(folder)).values()]
        begin = time.perf_counter()
        installed = Adapters(model, adapters)
        made = time.perf_counter() - begin
        scheduler = Scheduler(model, installed, args.rows, 5000)
        begin = time.perf_counter()
        scheduler.batch.capture()
        captured = time.perf_counter() - begin
        free = {"allocated_gib": round(torch.cuda.memory_allocated() / 2**30, 2)}
        free["reserved_gib"] = round(torch.cuda.memory_reserved() / 2**30, 2)
        print(json.dumps({"load_s": loaded, "adapters_s": made, "capture_s": captured} | free), flush=True)
        for context in args.context:
            steps(scheduler.batch, context, args.times)
        pieces(scheduler.batch)
        print(json.dumps({"reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2)}))
        if args.same:
            tokenizer = Tokenizer(args.model)
            asked = [question(n, 0, (8, 40, 3)[n % 3]) for n in range(args.same)]
            prompts = [tokenizer.encode_chat([{"role": "user", "content": each}]) for each in asked]
            same(scheduler, model, adapters, prompts, args.tokens)
    return 0


if __name__ == "__main__":
    sys.exit(main())
