"""The fast lane's losses compared with transformers and peft: --losses and --dropout-seeds of bench/fast_lane.py."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bench.fast_lane_model import load, say, settings_of, training_rows
from bench.machine import free_memory


def losses(args: argparse.Namespace) -> None:
    """The fast lane in bfloat16, transformers + peft in bfloat16 and in float32; same rows, order and initial adapter.

    Twice: 40 training steps, and the same 40 batches with a learning rate of 0, which shows the bare model's rounding.
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
    """With dropout, `--dropout-seeds` seeds: the fast lane, peft in bfloat16 and in float32 on the same rows and order.

    A seed sets the initial adapter and the dropout masks. The masks differ between the three: only means can agree.
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
    """A short form for people."""
    return [round(value, 5) for value in values]


def all_runs(args: argparse.Namespace, runs: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Losses by step for every run (name -> settings), from the fast lane and from peft in both precisions."""
    from qwen2.chat import Tokenizer

    rows = training_rows(args, Tokenizer(args.model_dir))
    with tempfile.TemporaryDirectory() as folder:
        found = {"fast": fast_runs(args, runs, rows, folder)}
        for dtype in ("bfloat16", "float32"):
            found[f"peft_{dtype}"] = peft_runs(args.model_dir, runs, rows, folder, dtype)
    return found


def fast_runs(args: argparse.Namespace, runs: dict[str, Any], rows: list[Any], folder: str) -> dict[str, list[float]]:
    """Losses by step from the fast lane; leaves each run's initial adapter in `folder`/NAME, and the GPU empty."""
    import torch

    from qwen2.training.loop import new_adapter, train

    model = load(args)
    found = {}
    for name, settings in runs.items():
        adapter = new_adapter(model.config, settings)
        adapter.save(f"{folder}/{name}")
        found[name] = train(model, rows, settings, f"{folder}/{name}/run", adapter=adapter).losses
    del model, adapter
    free_memory()
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
    """(ids, labels) [rows, longest] for every step of the fast lane, padded on the right as transformers expects."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from qwen2.training import batches

    total = settings.total_steps(len(rows))
    for step in batches.plan_steps(rows, total, settings.batch_size, settings.data_seed, None, None):
        ids, labels = zip(*(map(torch.tensor, rows[index]) for index in step.micros[0].rows), strict=True)
        yield pad_sequence(ids, batch_first=True).to(device), pad_sequence(labels, True, -100).to(device)
