"""Times the fast lane on one CUDA GPU: the article's job, long rows, the floor, losses; run by `make bench`.

    python bench/fast_lane.py MODEL_DIR [--rows FILE]     process start to saved adapter, answers before and after
    python bench/fast_lane.py MODEL_DIR --rows-2048       tokens a second on rows of 2048 tokens
    python bench/fast_lane.py MODEL_DIR --mixed           550 rows of 20 to 600 tokens, one epoch
    python bench/fast_lane.py MODEL_DIR --floor           matmul peak, copy rate, the base matmuls of a step alone
    python bench/fast_lane.py MODEL_DIR --losses          40 steps against float32 and peft (which it needs)
    python bench/fast_lane.py MODEL_DIR --dropout-seeds 5  40 steps with dropout a seed, beside peft in both precisions
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
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def process_age() -> float:
    """Seconds since this process was started, from the kernel's own clock: imports of the interpreter are counted."""
    start_ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - start_ticks / os.sysconf("SC_CLK_TCK")


BEGIN = time.perf_counter() - process_age()
STAGES: dict[str, float] = {}


def stage(name: str, since: float) -> float:
    """Note the seconds since `since` under `name`; returns now."""
    now = time.perf_counter()
    STAGES[name] = round(now - since, 3)
    print(f"[{now - BEGIN:7.2f}] {name} {now - since:.2f} s", file=sys.stderr, flush=True)
    return now


def say(mode: str, **figures: Any) -> None:
    """The JSON line of a mode."""
    import torch

    print(json.dumps({"mode": mode, "device": torch.cuda.get_device_name(), "torch": torch.__version__, **figures}))


def settings_of(args: argparse.Namespace, **changes: Any) -> Any:
    """The article's settings, with the command line's changes."""
    from qwen2.training.settings import TrainSettings

    base = TrainSettings(
        num_train_epochs=10, learning_rate=1e-4, lora_rank=8, lora_alpha=32, lora_dropout=args.dropout, batch_size=16,
        warmup_ratio=0.05, save_steps=50, recompute=args.recompute, vram_ceiling_gib=args.ceiling,
        cuda_graphs=not args.no_graphs,
    )  # fmt: skip
    return replace(base, **changes)


def useful_tflops(config: Any, tokens: float, seconds: float) -> float:
    """4 x N x tokens / time: forward and the gradient of the inputs, N with the head and without the embedding."""
    weights = config.linear_parameters + config.vocab_size * config.hidden_size
    return 4 * weights * tokens / seconds / 1e12


def load(args: argparse.Namespace) -> Any:
    """The model on the GPU under the ceiling."""
    import torch

    from qwen2.model import Model

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, args.ceiling * 2**30 / total))
    return Model.load(args.model_dir, "cuda")


def training_rows(args: argparse.Namespace, tokenizer: Any) -> list[Any]:
    """The data set as (ids, labels)."""
    rows = json.loads(Path(args.rows).read_text(encoding="utf-8"))
    return [tokenizer.encode_row(row, "You are a helpful assistant.") for row in rows]


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

    with ThreadPoolExecutor(1) as pool:  # the tokenizer is read while the weights are
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


def long_rows(args: argparse.Namespace) -> None:
    """Random rows of `--length` tokens, all but the first 30 with loss."""
    import torch

    from qwen2.training.loop import train

    model = load(args)
    generator = torch.Generator().manual_seed(0)
    limit = min(150_000, model.config.vocab_size)
    results = []
    for micro, recompute in ((1, "swiglu"), (1, "layer"), (2, "layer"), (4, "layer"), (1, "none")):
        if args.only and f"{micro}{recompute}" not in args.only.split(","):
            continue
        rows = []
        for _ in range(micro):
            ids = torch.randint(0, limit, (args.length,), generator=generator).tolist()
            rows.append((ids, [-100] * 30 + ids[30:]))
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
    """An epoch of 500 + 50 random rows of 20 to 600 tokens: the article's mixed run by its lengths."""
    import torch

    from qwen2.training import memory
    from qwen2.training.loop import train

    model = load(args)
    generator = torch.Generator().manual_seed(0)
    limit = min(150_000, model.config.vocab_size)
    rows = []
    for number in range(550):
        size = int(torch.randint(20, 601, (1,), generator=generator)) if number < 500 else 46
        ids = torch.randint(0, limit, (size,), generator=generator).tolist()
        rows.append((ids, [-100] * (size // 3) + ids[size // 3 :]))
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


def timed(function: Any, repeats: int = 5) -> float:
    """Median milliseconds of a GPU function by events, after a warm-up."""
    import torch

    function()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        function()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def hardware() -> tuple[float, float]:
    """(TFLOP/s of a big bfloat16 matmul on random data, GB/s of a copy, bytes read and written both counted)."""
    import torch

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    peak = 2 * 8192**3 / timed(lambda: a @ a, 20) / 1e9
    block = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(block)
    return peak, 2 * block.numel() / timed(lambda: target.copy_(block), 10) / 1e6


def floor(args: argparse.Namespace) -> None:
    """What the hardware gives: a big matmul, a copy, and the base matmuls (forward and dL/dx) of all layers alone."""
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
                forward = timed(lambda x=x, weights=weights: [F.linear(x, w) for w in weights])
                backward = timed(lambda y=y, weights=weights: [y @ w for w in weights])
                total[name] += forward + backward
                detail[f"{group}.{name}"] = [round(forward, 2), round(backward, 2)]
            del plain
            torch.cuda.empty_cache()
        tflops = 4 * model.config.linear_parameters * tokens / total["plain"] / 1e9
        rows.append(
            {
                "tokens": tokens,
                **{k: round(v, 2) for k, v in total.items()},
                "plain_tflops": round(tflops),
                "detail_ms": detail,
            }
        )
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


def losses(args: argparse.Namespace) -> None:
    """The fast lane in bfloat16, transformers + peft in bfloat16 and in float32: same rows, order, initial adapter.

    Twice: 40 steps of training, and the same 40 batches with a learning rate of 0, which is the bare model's rounding.
    """
    exact = settings_of(args, lora_dropout=0.0)
    every = all_runs(args, {"trained": exact, "bare": replace(exact, learning_rate=0.0)})
    fast, peft, truth = every["fast"], every["peft_bfloat16"], every["peft_float32"]
    found = {}
    for name in fast:
        errors = {
            who: [abs(a - b) for a, b in zip(values[name], truth[name], strict=True)]
            for who, values in (("fast", fast), ("peft", peft))
        }
        found[name] = {
            "fast": rounded(fast[name]),
            "peft_bf16": rounded(peft[name]),
            "peft_fp32": rounded(truth[name]),
            "mean_error": {who: statistics.mean(each) for who, each in errors.items()},
            "max_error": {who: max(each) for who, each in errors.items()},
            "steps_at_least_as_close": sum(a <= b for a, b in zip(errors["fast"], errors["peft"], strict=True)),
            "farther_at": [n + 1 for n, (a, b) in enumerate(zip(errors["fast"], errors["peft"], strict=True)) if a > b],
            "final_minus_peft": fast[name][-1] - peft[name][-1],
            "final_minus_fp32": fast[name][-1] - truth[name][-1],
        }
    say("losses", **found)


def dropout(args: argparse.Namespace) -> None:
    """Dropout on, `--dropout-seeds` seeds: the fast lane, peft in bfloat16 and in float32 on the same rows and order.

    A seed gives the initial adapter and the dropout's masks, which differ between the three: only means can agree.
    """
    seeds = range(1, args.dropout_seeds + 1)
    every = all_runs(args, {f"seed {n}": settings_of(args, seed=n) for n in seeds})
    found = {}
    for who, runs in every.items():
        last = [statistics.mean(values[-10:]) for values in runs.values()]  # the last ten steps see every row thrice
        by_step = list(zip(*runs.values(), strict=True))
        found[who] = {
            "mean_by_step": rounded([statistics.mean(each) for each in by_step]),
            "spread_by_step": rounded([statistics.stdev(each) for each in by_step]),
            "last_ten_steps": rounded(last),
            "mean": statistics.mean(last),
            "spread": statistics.stdev(last),
        }
    say("dropout", dropout=args.dropout, seeds=list(seeds), **found)


def rounded(values: list[float]) -> list[float]:
    """For the eye."""
    return [round(value, 5) for value in values]


def all_runs(args: argparse.Namespace, runs: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Losses by step of every run (name -> settings), by the fast lane and by peft in both precisions."""
    from qwen2.chat import Tokenizer

    rows = training_rows(args, Tokenizer(args.model_dir))
    with tempfile.TemporaryDirectory() as folder:
        found = {"fast": fast_runs(args, runs, rows, folder)}
        for dtype in ("bfloat16", "float32"):
            found[f"peft_{dtype}"] = peft_runs(args.model_dir, runs, rows, folder, dtype)
    return found


def fast_runs(args: argparse.Namespace, runs: dict[str, Any], rows: list[Any], folder: str) -> dict[str, list[float]]:
    """Losses by step of the fast lane; leaves each run's initial adapter in `folder`/NAME, and the GPU empty."""
    import gc

    import torch

    from qwen2.training.loop import new_adapter, train

    model = load(args)
    found = {}
    for name, settings in runs.items():
        adapter = new_adapter(model.config, settings)
        adapter.save(f"{folder}/{name}")
        found[name] = train(model, rows, settings, f"{folder}/{name}/run", adapter=adapter).losses
    del model, adapter
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0)
    return found


def peft_runs(model_dir: str, runs: dict[str, Any], rows: list[Any], folder: str, dtype: str) -> dict[str, list[float]]:
    """Losses by step of a plain loop with transformers, peft and torch's AdamW from the adapters in `folder`; bfloat16
    runs under autocast, as in ms-swift, float32 without TF32. The base is loaded once."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.backends.cuda.matmul.allow_tf32 = False
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype), device_map="cuda")
    found = {}
    for name, settings in runs.items():
        torch.manual_seed(settings.seed)
        model = PeftModel.from_pretrained(base, f"{folder}/{name}", is_trainable=True)
        model.train()
        found[name] = peft_losses(model, rows, settings, dtype == "bfloat16")
        base = model.unload()
        print(f"peft {dtype} {name}: {found[name][0]:.4f} to {found[name][-1]:.4f}", file=sys.stderr, flush=True)
        del model
    del base
    torch.cuda.empty_cache()
    return found


def peft_losses(model: Any, rows: list[Any], settings: Any, autocast: bool) -> list[float]:
    """One training of a peft model on the batches that the fast lane makes."""
    import torch

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=0.0, betas=(settings.adam_beta1, settings.adam_beta2), weight_decay=settings.weight_decay
    )
    total = settings.total_steps(len(rows))
    found = []
    for number, (ids, labels) in enumerate(padded_batches(rows, settings, "cuda")):
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.param_groups[0]["lr"] = settings.learning_rate_at(number, total)
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(loss.detach()))
    return found


def padded_batches(rows: list[Any], settings: Any, device: str) -> Iterator[tuple[Any, Any]]:
    """(ids, labels) [rows, longest] of every step of the fast lane, padded on the right as transformers wants them."""
    import torch

    from qwen2.training import batches

    total = settings.total_steps(len(rows))
    for step in batches.plan_steps(rows, total, settings.batch_size, settings.data_seed, None, None):
        chosen = [rows[index] for index in step.micros[0].rows]
        width = max(len(ids) for ids, _ in chosen)
        ids = torch.tensor([list(ids) + [0] * (width - len(ids)) for ids, _ in chosen], device=device)
        labels = torch.tensor([list(tags) + [-100] * (width - len(tags)) for _, tags in chosen], device=device)
        yield ids, labels


def main() -> None:
    """Parse the command line and run one mode."""
    parser = argparse.ArgumentParser(description="Times the fast lane on one CUDA GPU.")
    parser.add_argument("model_dir")
    modes = parser.add_mutually_exclusive_group()
    for name in ("--rows-2048", "--mixed", "--floor", "--losses", "--profile"):
        modes.add_argument(name, action="store_true")
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
    for chosen, run in (
        (args.rows_2048, long_rows),
        (args.mixed, mixed),
        (args.floor, floor),
        (args.losses, losses),
        (args.dropout_seeds, dropout),
        (args.profile, profile),
    ):
        if chosen:
            run(args)
            return
    job(args)


if __name__ == "__main__":
    main()
