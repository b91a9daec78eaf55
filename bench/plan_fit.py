"""Measures the peaks that `plan` predicts, on one CUDA GPU, and fits the constants of finetune/plan/memory.py to them.

    python bench/plan_fit.py measure MODEL_DIR OUT.json [--only swift|fast]   ms-swift's own trainer, and the fast lane
    python bench/plan_fit.py fit OUT.json                                     constants by least squares, and the table

MODEL_DIR holds the model (random weights of the 7B shape are enough). ms-swift's model loading, adapter, collator and
trainer run as in `swift sft`. Only the rows are synthetic, so each setting has one length. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from bench.machine import free_memory  # noqa: E402
from bench.shapes import shape_of  # noqa: E402

GIB = 2**30
BEGIN = time.perf_counter()
STEPS = 3
RANK = 8
# (tokens of the longest row, rows); the second list has rows of equal length only, so nothing is padded
PLAIN = (
    [(46, 1), (46, 16), (128, 8), (256, 4), (256, 16), (512, 8), (1024, 1), (1024, 4), (2048, 1), (2048, 2)],
    [(512, 4)],
)
CHECKPOINTED = ([(46, 1), (46, 16), (256, 8), (512, 4), (1024, 4), (2048, 1), (2048, 4), (2048, 8)], [(1024, 2)])
LIGER_CHECKPOINTED = ([(46, 1), (46, 16), (512, 4), (1024, 8), (2048, 1), (2048, 4), (2048, 16)], [(2048, 2)])
LIGER = ([(46, 1), (46, 16), (256, 4), (512, 8), (1024, 2), (2048, 1), (2048, 2)], [(512, 4)])
# liger patches classes in the process, so it comes last
GROUPS = ((False, False, PLAIN), (True, False, CHECKPOINTED), (True, True, LIGER_CHECKPOINTED), (False, True, LIGER))
# (tokens of a row, rows, recompute, optimizer steps); from about 20 steps on the fast lane captures CUDA graphs
FAST = (
    (46, 16, "none", 3), (46, 16, "none", 40), (46, 16, "swiglu", 40), (256, 8, "none", 3), (512, 4, "swiglu", 3),
    (512, 4, "swiglu", 40), (1024, 2, "swiglu", 3), (2048, 1, "none", 3), (2048, 1, "swiglu", 3), (2048, 1, "layer", 3),
    (2048, 4, "layer", 3), (2048, 8, "layer", 3),
)  # fmt: skip


def note(text: str) -> None:
    """Print a line of progress."""
    print(f"[{time.perf_counter() - BEGIN:7.1f}] {text}", file=sys.stderr, flush=True)


def made_rows(tokens: int, rows: int, padded: bool, vocabulary: int) -> list[dict[str, Any]]:
    """Rows of random ids in ms-swift's template form. Padded: one of full length, the others slightly shorter."""
    draw = random.Random(0)
    found = []
    for number in range(rows):
        length = tokens if number == 0 or not padded else max(2, tokens - 1 - number % 8)
        ids = [draw.randrange(vocabulary) for _ in range(length)]
        start = first_label(tokens)
        found.append({"input_ids": ids, "labels": [-100] * start + ids[start:], "length": length})
    return found


def first_label(tokens: int) -> int:
    """Where the answer of a synthetic row starts."""
    return min(24, tokens // 2)


def kept_logits(tokens: int, rows: int) -> int:
    """Positions for which ms-swift computes logits (swift/trainers/mixin.py, prepare_logits_to_keep)."""
    return rows * (tokens - first_label(tokens) + 1)


def measure_swift(model_dir: str, results: list[dict[str, Any]], save: Callable[[], None]) -> None:
    """Peaks of ms-swift, in GiB, and milliseconds per micro-batch."""
    for checkpointing, liger, (padded, equal) in GROUPS:
        sft = pipeline(model_dir)
        note(f"ms-swift, checkpointing {checkpointing}, liger {liger}: model loaded")
        for tokens, rows, is_padded in [(*p, p[1] > 1) for p in padded] + [(*e, False) for e in equal]:
            setting = {
                "tokens": tokens, "rows": rows, "padded": is_padded, "checkpointing": checkpointing, "liger": liger,
                "kept": kept_logits(tokens, rows),
            }  # fmt: skip
            try:
                figures = train_some(sft, setting)
            except Exception as error:  # out of memory, or a failure of one setting: keep the others
                figures = {"failed": f"{type(error).__name__}: {error}"[:300]}
            release(sft)
            results.append(setting | figures)
            note(json.dumps(results[-1]))
        save()
        del sft
        free_memory()


def pipeline(model_dir: str) -> Any:
    """ms-swift's sft pipeline with the model loaded and the adapter added."""
    import torch
    from swift.pipelines.train.sft import SwiftSft

    words = [
        "--model", model_dir, "--model_type", "qwen2", "--template", "qwen2_5", "--tuner_type", "lora",
        "--check_model", "false", "--torch_dtype", "bfloat16" if torch.cuda.is_available() else "float32",
        "--lora_rank", str(RANK), "--lora_alpha", "32",
        "--target_modules", "all-linear", "--max_length", "2048", "--dataset", str(dataset_file()),
        "--lazy_tokenize", "true", "--dataloader_num_workers", "0", "--output_dir", tempfile.mkdtemp(),
        "--add_version", "false",
        "--report_to", "none", "--save_strategy", "no", "--learning_rate", "1e-4", "--logging_steps", "1",
    ]  # fmt: skip
    sft = SwiftSft(words)
    sft.model = sft.prepare_model(sft.args, sft.model, template=sft.template, train_dataset=None)
    return sft


def dataset_file() -> Path:
    """A dataset that the arguments can name; its row is not used for training."""
    path = Path(tempfile.mkdtemp()) / "rows.jsonl"
    path.write_text(json.dumps({"instruction": "a", "input": "", "output": "b"}) + "\n")
    return path


def train_some(sft: Any, setting: dict[str, Any]) -> dict[str, Any]:
    """Run STEPS optimizer steps of ms-swift's trainer on rows of this setting."""
    import torch
    from swift.trainers import TrainerFactory
    from transformers import TrainerCallback

    micros = 1 if setting["tokens"] * setting["rows"] > 8192 else 2  # with two, the gradients of the first are kept
    args = copy(sft.args.training_args)
    args.per_device_train_batch_size, args.gradient_accumulation_steps = setting["rows"], micros
    args.max_steps, args.gradient_checkpointing = STEPS, setting["checkpointing"]
    args.use_liger_kernel, args.use_logits_to_keep, args.report_to = setting["liger"], None, []
    args._init_liger()
    rows = made_rows(setting["tokens"], setting["rows"], setting["padded"], sft.model.config.vocab_size)
    steps: list[float] = []

    class StepTimes(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            synchronize()
            self.begin = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronize()
            steps.append((time.perf_counter() - self.begin) * 1000)

    trainer = TrainerFactory.get_trainer_cls(sft.args)(
        model=sft.model, args=args, template=sft.template, train_dataset=rows * (micros * STEPS), eval_dataset=None
    )  # fmt: skip
    trainer.add_callback(StepTimes())
    free_memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    trainer.train()
    figures = {
        "micro_batches": micros,
        "ms_by_step": [round(ms, 1) for ms in steps],
        "ms_per_micro_batch": round(min(steps) / micros, 1),
        "before_gib": round(before / GIB, 3),
    }
    if torch.cuda.is_available():
        figures["allocated_gib"] = round(torch.cuda.max_memory_allocated() / GIB, 3)
        figures["reserved_gib"] = round(torch.cuda.max_memory_reserved() / GIB, 3)
    return figures


def release(sft: Any) -> None:
    """Remove a trainer's wrappers around the model, and its gradients, but keep accelerate's autocast.

    accelerate adds that wrapper once and skips it the second time: without it, LoRA would run in float32.
    """
    base = sft.model.get_base_model()
    if base.is_gradient_checkpointing:
        base.gradient_checkpointing_disable()
        base.disable_input_require_grads()
    sft.model.zero_grad(set_to_none=True)
    gc.collect()


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure_fast(model_dir: str, results: list[dict[str, Any]], save: Callable[[], None]) -> None:
    """Reserved peaks of the fast lane with the estimates of qwen2.training.memory, in GiB."""
    import torch

    from qwen2.model import Model
    from qwen2.training import memory
    from qwen2.training.loop import train
    from qwen2.training.settings import TrainSettings

    model = Model.load(model_dir, "cuda" if torch.cuda.is_available() else "cpu")
    note("fast lane: model loaded")
    for tokens, rows, recompute, steps in FAST:
        made = [(row["input_ids"], row["labels"]) for row in made_rows(tokens, rows, False, model.config.vocab_size)]
        settings = TrainSettings(max_steps=steps, lora_rank=RANK, batch_size=rows, recompute=recompute)
        figures: dict[str, Any] = {"tokens": tokens, "rows": rows, "recompute": recompute, "steps": steps}
        figures["estimate_gib"] = round(memory.peak_gib(model.config, RANK, recompute, tokens * rows, 0.05), 3)
        try:
            with tempfile.TemporaryDirectory() as folder:
                result = train(model, made, settings, folder)
            figures["allocated_gib"] = round(result.peak_allocated_gib, 3)
            figures["reserved_gib"] = round(result.peak_reserved_gib, 3)
            figures["ms_per_step"] = round(min(result.step_ms), 1)
            del result
        except torch.OutOfMemoryError as error:
            figures["failed"] = str(error)[:160]
        free_memory()
        results.append(figures)
        note(json.dumps(figures))
    save()


def measure(args: argparse.Namespace) -> None:
    """Measure all settings; the results so far are written after each part."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    import torch

    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "shape": json.loads((Path(args.model_dir) / "config.json").read_text()),
    }

    def save() -> None:
        Path(args.out).write_text(json.dumps(found, indent=1))

    parts = {"fast": measure_fast, "swift": measure_swift}
    for name in ["fast", "swift"] if args.only is None else [args.only]:
        found[name] = []
        parts[name](args.model_dir, found[name], save)
        gc.collect()


def setting_of(row: dict[str, Any]) -> tuple[Any, bool, bool]:
    """A measured setting in the form of finetune.plan.memory: the micro-batch, checkpointing, liger."""
    from finetune.plan.memory import LargestMicroBatch

    return LargestMicroBatch(row["tokens"], row["rows"], row["kept"], row["padded"]), row["checkpointing"], row["liger"]


def fit(args: argparse.Namespace) -> None:
    """The constants that minimise the squares of predicted / measured - 1, and the error of each setting.

    Underestimates count three times as much as overestimates: a prediction that is too low ends a run.
    """
    from scipy.optimize import least_squares

    from finetune.plan import memory

    found = json.loads(Path(args.out).read_text())
    shape = shape_of(found["shape"])
    rows = [row for row in found["swift"] if "reserved_gib" in row]
    adapter = memory.LoraSpec(RANK)

    def errors(constants: Any) -> list[float]:
        fitted = memory.Fitted(*constants)
        return [memory.peak_gib(shape, adapter, *setting_of(row), fitted) / row["allocated_gib"] - 1 for row in rows]

    def weighted(constants: Any) -> list[float]:
        return [error * (3 if error < 0 else 1) for error in errors(constants)]

    start = [0.4, 1.0, 1.0, 1.5, 1.5, 12.0, 8.0, 2.0]
    low, high = [0.0, 0.5, 0.5, 0.0, 0.0, 2.0, 0.0, 0.0], [2.0, 2.0, 2.0, 9.0, 9.0, 30.0, 300.0, 30.0]
    best = least_squares(weighted, start, bounds=(low, high), x_scale=start, xtol=1e-12)
    for name, value in zip(memory.Fitted.__dataclass_fields__, best.x, strict=True):
        print(f"    {name}={value:.3f},")
    table(found, rows, [errors(best.x), errors(list(vars(memory.FITTED).values()))], shape)


def table(found: dict[str, Any], rows: list[dict[str, Any]], both: list[list[float]], shape: Any) -> None:
    """The table in docs/plan.md: measured, predicted with the constants in the code, and with the new fit."""
    from finetune.plan.speed import micro_batch_seconds

    print(f"\n{found['device']}, torch {found['torch']}, {found['date']}\n")
    print(
        "| checkpointing | liger | tokens | rows | padded | allocated | reserved | predicted | off | ms | predicted |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row, new, old in zip(rows, *both, strict=True):
        words = ["yes" if row[name] else "no" for name in ("checkpointing", "liger", "padded")]
        speed = micro_batch_seconds(shape, row["tokens"] * row["rows"], row["checkpointing"], row["liger"]) * 1000
        print(
            f"| {words[0]} | {words[1]} | {row['tokens']} | {row['rows']} | {words[2]} | {row['allocated_gib']:.2f} "
            f"| {row['reserved_gib']:.2f} | {row['allocated_gib'] * (1 + old):.2f} | {old * 100:+.1f} % "
            f"| {row['ms_per_micro_batch']:.0f} | {speed:.0f} | new fit {new * 100:+.1f} %"
        )
    for name, errors in zip(("new fit", "the code"), both, strict=True):
        print(f"\n{name}: {min(errors) * 100:+.2f} to {max(errors) * 100:+.2f} % of {len(errors)} settings")
    print("\n| recompute | tokens | rows | steps | allocated | reserved | estimate | off |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in found.get("fast", []):
        if "reserved_gib" in row:
            off = row["estimate_gib"] / row["reserved_gib"] - 1
            print(
                f"| {row['recompute']} | {row['tokens']} | {row['rows']} | {row['steps']} | {row['allocated_gib']:.2f} "
                f"| {row['reserved_gib']:.2f} | {row['estimate_gib']:.2f} | {off * 100:+.1f} % |"
            )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("model_dir")
    measuring.add_argument("out")
    measuring.add_argument("--only", choices=["swift", "fast"])
    measuring.add_argument("--tiny", action="store_true", help="a few short settings, to try the script on a CPU")
    measuring.set_defaults(run=measure)
    fitting = commands.add_parser("fit")
    fitting.add_argument("out")
    fitting.set_defaults(run=fit)
    args = parser.parse_args()
    if getattr(args, "tiny", False):
        global GROUPS, FAST
        GROUPS = tuple((c, lig, ([(46, 1), (46, 2)], [(32, 2)])) for c, lig, _ in GROUPS if not lig)
        FAST = ((46, 2, "none", 3), (64, 2, "layer", 3))
    args.run(args)


if __name__ == "__main__":
    main()
