"""Times the fast lane on one CUDA GPU: the article's job, long rows, the floor, losses; run by `make bench`.

    python bench/fast_lane.py MODEL_DIR [--rows FILE]     process start to saved adapter, answers before and after
    python bench/fast_lane.py MODEL_DIR --rows-2048       tokens a second on rows of 2048 tokens
    python bench/fast_lane.py MODEL_DIR --mixed           550 rows of 20 to 600 tokens, one epoch
    python bench/fast_lane.py MODEL_DIR --floor           matmul peak, copy rate, the base matmuls of a step alone
    python bench/fast_lane.py MODEL_DIR --losses          40 steps against float32 and peft (which it needs)
    python bench/fast_lane.py MODEL_DIR --dropout-seeds 5  40 steps with dropout per seed; peft in both precisions
    python bench/fast_lane.py MODEL_DIR --profile         time by kernel of one step

Every mode prints one JSON line on stdout, beginning with its name; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.fast_lane_losses import dropout, losses  # noqa: E402
from bench.fast_lane_model import load, say, settings_of, training_rows  # noqa: E402
from bench.machine import gpu_ms  # noqa: E402


def process_age() -> float:
    """Seconds since this process started, by the kernel's clock, so that the interpreter's imports are included."""
    start_ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - start_ticks / os.sysconf("SC_CLK_TCK")


BEGIN = time.perf_counter() - process_age()
STAGES: dict[str, float] = {}


def stage(name: str, since: float) -> float:
    """Record the seconds since `since` under `name`; returns now."""
    now = time.perf_counter()
    STAGES[name] = round(now - since, 3)
    print(f"[{now - BEGIN:7.2f}] {name} {now - since:.2f} s", file=sys.stderr, flush=True)
    return now


def useful_tflops(config: Any, tokens: float, seconds: float) -> float:
    """4 x N x tokens / time: forward pass and input gradients; N includes the head but not the embedding."""
    weights = config.linear_parameters + config.vocab_size * config.hidden_size
    return 4 * weights * tokens / seconds / 1e12


def job(args: argparse.Namespace) -> None:
    """Process start, load, answers, 40 steps, answers, adapter on disk."""
    now = stage("interpreter", BEGIN)
    from qwen2.early_cuda import start_cuda

    start_cuda()
    import torch

    now = stage("import_torch", now)
    torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    now = stage("cuda_init", now)
    from concurrent.futures import ThreadPoolExecutor

    from qwen2.chat import Tokenizer
    from qwen2.generate import generate
    from qwen2.training.loop import train

    with ThreadPoolExecutor(1) as pool:  # the tokenizer loads while the weights are read
        reading = pool.submit(Tokenizer, args.model_dir)
        model = load(args)
        tokenizer = reading.result()
    torch.cuda.synchronize()
    now = stage("load", now)
    raw = json.loads(Path(args.rows).read_text(encoding="utf-8"))
    rows = training_rows(args, tokenizer)
    system = "You are a helpful assistant."
    questions = [{"role": "user", "content": row["instruction"]} for row in raw[: args.questions]]
    prompts = [tokenizer.encode_chat([question], system) for question in questions]
    now = stage("encode", now)
    before = generate(model, prompts, args.new_tokens)
    now = stage("answers_before", now)
    with tempfile.TemporaryDirectory() as folder:
        out = args.out or folder
        result = train(model, rows, settings_of(args), out)
        now = stage("train_and_save", now)
        after = generate(model, prompts, args.new_tokens, adapter=result.adapter)
        now = stage("answers_after", now)
        total = now - BEGIN
        saved = sorted(path.name for path in result.checkpoint.iterdir())
    wanted = [tokenizer.encode(row["output"]) for row in raw[: args.questions]]
    hits = [sum(a[: len(w)] == w for a, w in zip(answers, wanted, strict=True)) for answers in (before, after)]
    median = statistics.median(result.step_ms[1:])
    say(
        "job",
        total_s=round(total, 2),
        stages=STAGES,
        setup_s=round(result.setup_seconds, 3),
        loop_s=round(result.seconds, 3),
        steps=result.steps,
        ms_per_step=round(median, 2),
        ms_by_step=[round(ms, 1) for ms in result.step_ms],
        tokens_per_s=round(result.tokens / result.seconds),
        peak_allocated_gib=round(result.peak_allocated_gib, 2),
        peak_reserved_gib=round(torch.cuda.max_memory_reserved() / 2**30, 2),
        losses=[round(loss, 4) for loss in result.losses],
        exact_answers=hits,
        of=len(wanted),
        dropout=args.dropout,
        recompute=args.recompute,
        files=saved,
        modules=[name for name in ("torch._dynamo", "transformers", "numpy", "peft") if name in sys.modules],
    )


def random_row(size: int, unlabelled: int, vocabulary: int, generator: Any) -> tuple[list[int], list[int]]:
    """(ids, labels) of `size` random tokens; the first `unlabelled` have no loss."""
    import torch

    ids = torch.randint(0, min(150_000, vocabulary), (size,), generator=generator).tolist()
    return ids, [-100] * unlabelled + ids[unlabelled:]


def long_rows(args: argparse.Namespace) -> None:
    """Random rows of `--length` tokens, all but the first 30 with a loss."""
    import torch

    from qwen2.training.loop import train

    model = load(args)
    generator = torch.Generator().manual_seed(0)
    results = []
    for micro, recompute in ((1, "swiglu"), (1, "layer"), (2, "layer"), (4, "layer"), (1, "none")):
        if args.only and f"{micro}{recompute}" not in args.only.split(","):
            continue
        rows = [random_row(args.length, 30, model.config.vocab_size, generator) for _ in range(micro)]
        settings = settings_of(args, batch_size=micro, max_steps=24, recompute=recompute)
        figures: dict[str, Any] = {"micro_batch": micro, "recompute": recompute}
        try:
            with tempfile.TemporaryDirectory() as folder:
                result = train(model, rows, settings, folder)
            seconds = statistics.median(result.step_ms[2:]) / 1000
            figures |= {
                "ms_per_step": round(seconds * 1000, 1),
                "tokens_per_s": round(micro * args.length / seconds),
                "useful_tflops": round(useful_tflops(model.config, micro * args.length, seconds), 1),
                "peak_allocated_gib": round(result.peak_allocated_gib, 2),
                "peak_reserved_gib": round(result.peak_reserved_gib, 2),
                "losses": [round(loss, 4) for loss in result.losses],
            }
            del result
        except torch.OutOfMemoryError as error:
            figures["out_of_memory"] = str(error)[:120]
        torch.cuda.empty_cache()
        results.append(figures)
        print(figures, file=sys.stderr, flush=True)
    say("rows_2048", length=args.length, ceiling_gib=args.ceiling, dropout=args.dropout, results=results)


def mixed(args: argparse.Namespace) -> None:
    """One epoch of 500 + 50 random rows of 20 to 600 tokens: the article's mixed run by its lengths."""
    import torch

    from qwen2.training import memory
    from qwen2.training.loop import train

    model = load(args)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(550):
        size = int(torch.randint(20, 601, (1,), generator=generator)) if number < 500 else 46
        rows.append(random_row(size, size // 3, model.config.vocab_size, generator))
    settings = settings_of(args, num_train_epochs=1, warmup_ratio=0.0)
    plan = memory.plan(model.config, settings, rows, args.ceiling)
    settings = replace(settings, recompute=plan.recompute, micro_batch_tokens=plan.micro_batch_tokens)
    with tempfile.TemporaryDirectory() as folder:
        result = train(model, rows, settings, folder)
    say(
        "mixed",
        plan=vars(plan),
        steps=result.steps,
        setup_s=round(result.setup_seconds, 2),
        loop_s=round(result.seconds, 2),
        tokens=result.tokens,
        tokens_per_s=round(result.tokens / result.seconds),
        ms_by_step=[round(ms) for ms in result.step_ms],
        peak_allocated_gib=round(result.peak_allocated_gib, 2),
        peak_reserved_gib=round(result.peak_reserved_gib, 2),
        dropout=args.dropout,
        losses=[round(loss, 3) for loss in result.losses],
    )


def hardware() -> tuple[float, float]:
    """(TFLOP/s of a large bfloat16 matmul on random data, GB/s of a copy, counting bytes read and written)."""
    import torch

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    peak = 2 * 8192**3 / gpu_ms(lambda: a @ a, 20) / 1e9
    block = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(block)
    return peak, 2 * block.numel() / gpu_ms(lambda: target.copy_(block), 10) / 1e6


def floor(args: argparse.Namespace) -> None:
    """The hardware's limits: a large matmul, a copy, and only the base matmuls (forward and dL/dx) of all layers."""
    import torch
    import torch.nn.functional as F

    from qwen2.model import padded_columns

    peak, copy = hardware()
    model = load(args)
    rows = []
    for tokens in args.tokens:
        total = {"plain": 0.0, "strided": 0.0, "with_lora_columns": 0.0}
        detail = {}
        for group in ("qkv", "o", "gate_up", "down"):
            linears = [layer.linears[group] for layer in model.layers]
            n, k = linears[0].storage.shape[0], linears[0].inputs
            wide = k + padded_columns(8 * len(linears[0].rows))
            plain = [linear.weight.contiguous() for linear in linears]
            strided, full = ([linear.storage[:, :w] for linear in linears] for w in (k, wide))
            for name, weights, width in (
                ("plain", plain, k),
                ("strided", strided, k),
                ("with_lora_columns", full, wide),
            ):
                x = torch.randn(tokens, width, device="cuda", dtype=torch.bfloat16)
                y = torch.randn(tokens, n, device="cuda", dtype=torch.bfloat16)
                forward = gpu_ms(lambda x=x, weights=weights: [F.linear(x, w) for w in weights], 5)
                backward = gpu_ms(lambda y=y, weights=weights: [y @ w for w in weights], 5)
                total[name] += forward + backward
                detail[f"{group}.{name}"] = [round(forward, 2), round(backward, 2)]
            del plain
            torch.cuda.empty_cache()
        tflops = 4 * model.config.linear_parameters * tokens / total["plain"] / 1e9
        total = {name: round(ms, 2) for name, ms in total.items()}
        rows.append({"tokens": tokens, **total, "plain_tflops": round(tflops), "detail_ms": detail})
    say("floor", matmul_tflops=round(peak), copy_gb_s=round(copy), base_matmuls_ms=rows)


def profile(args: argparse.Namespace) -> None:
    """Kernels of two uncaptured steps, summed by name."""
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorded

    from qwen2.chat import Tokenizer
    from qwen2.training.loop import train

    model = load(args)
    rows = training_rows(args, Tokenizer(args.model_dir))
    settings = settings_of(args, max_steps=2, cuda_graphs=False)
    with tempfile.TemporaryDirectory() as folder:
        train(model, rows, settings, folder)
        with recorded(activities=[ProfilerActivity.CUDA]) as profiler:
            result = train(model, rows, settings, folder)
            torch.cuda.synchronize()
    sums: dict[str, list[float]] = {}
    for event in profiler.events():
        if str(event.device_type).endswith("CUDA"):
            entry = sums.setdefault(event.name[:90], [0.0, 0.0])
            entry[0] += event.device_time / 2e3
            entry[1] += 0.5
    ranked = sorted(sums.items(), key=lambda pair: -pair[1][0])
    for name, (ms, calls) in ranked[:45]:
        print(f"{ms:8.3f} ms x{calls:7.1f} {name}", file=sys.stderr)
    say(
        "profile",
        tokens=result.tokens / 2,
        kernel_ms=round(sum(v[0] for v in sums.values()), 2),
        launches=round(sum(v[1] for v in sums.values())),
        kernels=[[name, round(ms, 3), calls] for name, (ms, calls) in ranked[:25]],
    )


def main() -> None:
    """Parse the command line and run one mode."""
    parser = argparse.ArgumentParser(description="Times the fast lane on one CUDA GPU.")
    parser.add_argument("model_dir")
    modes = parser.add_mutually_exclusive_group()
    for mode in (long_rows, mixed, floor, losses, profile):
        name = "--rows-2048" if mode is long_rows else f"--{mode.__name__}"
        modes.add_argument(name, dest="run", action="store_const", const=mode, default=job)
    modes.add_argument("--dropout-seeds", type=int, metavar="N")
    parser.add_argument("--rows", default=str(ROOT / "workspace" / "self_cognition.json"), help="the data set, JSON")
    parser.add_argument("--out", help="keep the run here (default: a temporary folder)")
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--recompute", choices=["none", "swiglu", "layer"], default="none")
    parser.add_argument("--ceiling", type=float, default=22.0, help="GiB of GPU memory")
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--only", help="of --rows-2048: 1swiglu,4layer,...")
    parser.add_argument("--tokens", type=int, nargs="+", default=[736, 768, 1024, 2048])
    parser.add_argument("--no-graphs", action="store_true")
    args = parser.parse_args()
    (dropout if args.dropout_seeds else args.run)(args)


if __name__ == "__main__":
    main()
