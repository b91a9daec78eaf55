"""Every size of Qwen2.5 against cards: a table of docs/performance.md, and measured peaks beside what `plan` says.

    python bench/plan_sizes.py table                              what fits which card; no GPU, no weights
    python bench/plan_sizes.py measure OUT_DIR [SIZE ...]         on one CUDA GPU: OUT_DIR/SIZE.json, by plan_fit.py
    python bench/plan_sizes.py check OUT_DIR                      the table of all that was measured, and the bar

`measure` makes random weights of each size in OUT_DIR, one after the other, and removes them again (the 14B's are
30 GB). ms-swift is measured, too, where it is installed and the official tokenizer is at hand (--tokenizer). The bar:
within 5 % of the measured peak, and never more than 2 % below it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from bench.plan_fit import RANK, first_label, setting_of  # noqa: E402
from bench.shapes import SHAPES, config_json, shape_of  # noqa: E402

CARDS_GB = (8, 12, 16, 24, 48, 80)
ROWS, LONGEST, BATCH = 50, 64, 16  # the article's: 50 rows of at most 64 tokens, 16 per step
LONG = 1024  # tokens of one long row, the other extreme of typical training data
OVER, UNDER = 0.05, -0.02


def fast_peak(shape: Any, tokens: int, ceiling: float) -> str:
    """The fast lane's peak in GiB for rows of that length, or a dash."""
    from finetune.plan.fast import plan_fast

    found = plan_fast(shape, [tokens] * ROWS, BATCH, ceiling)
    return "-" if isinstance(found, str) else f"{found.peak_gib:.1f}"


def four_bit_peak(shape: Any, tokens: int, ceiling: float) -> str:
    """ms-swift's peak in GiB on the 4-bit base (configs/sft_qlora.yaml), or a dash."""
    from common.errors import UserError
    from finetune.plan.swift import plan_swift

    try:
        found = plan_swift(shape, [tokens] * ROWS, batch=BATCH, ceiling_gib=ceiling, quant_bits=4)
    except UserError:
        return "-"
    return f"4-bit, {found.peak_gib:.1f}"


def table() -> None:
    """For each size and GPU: the peak of the cheapest way that fits, for short and for long rows."""
    from finetune.plan.gpu_memory import card_ceiling

    print("| size | weights, GB | " + " | ".join(f"{card} GB card" for card in CARDS_GB) + " |")
    print("| --- " * (len(CARDS_GB) + 2) + "|")
    for size in SHAPES:
        shape = shape_of(config_json(size))
        heads = 1 if shape.tie_embeddings else 2
        weights = 2 * (shape.linear_parameters + heads * shape.vocab_size * shape.hidden_size) / 1e9
        cells = []
        for card in CARDS_GB:
            ceiling = card_ceiling(card)
            both = [fast_peak(shape, tokens, ceiling) for tokens in (LONGEST, LONG)]
            if both[0] == "-":
                both = [four_bit_peak(shape, tokens, ceiling) for tokens in (LONGEST, LONG)]
            cells.append("-" if both[0] == "-" else " / ".join(both))
        print(f"| {size} | {weights:.1f} | " + " | ".join(cells) + " |")


def measure(out: Path, sizes: list[str], tokenizer: Path | None) -> None:
    """Peaks of each size by plan_fit.py, in a separate process, whose GPU memory is freed with it."""
    out.mkdir(parents=True, exist_ok=True)
    only = [] if tokenizer and find_spec("swift") else ["--only", "fast"]
    for size in sizes:
        weights = out / f"weights-{size}"
        given = ["--tokenizer", str(tokenizer)] if tokenizer else ["--no-tokenizer"]
        for command in (
            ["bench/random_weights.py", str(weights), "--size", size, *given],
            ["bench/plan_fit.py", "measure", str(weights), str(out / f"{size}.json"), *only],
        ):
            print("$", *command, file=sys.stderr, flush=True)
            subprocess.run([sys.executable, *command], cwd=ROOT, check=False)
        shutil.rmtree(weights, ignore_errors=True)
    check(out)


def check(out: Path) -> None:
    """Print every measured setting with today's prediction, and whether the bar is met."""
    from finetune.plan import memory as swift_memory
    from qwen2.training import memory

    print("| size | engine | setting | measured, GiB | predicted | off |\n| --- | --- | --- | --- | --- | --- |")
    offs: list[float] = []
    for file in sorted(out.glob("*B.json"), key=lambda path: float(path.stem.removesuffix("B"))):
        found, shape = json.loads(file.read_text()), shape_of(config_json(file.stem))
        rows = []
        for row in found.get("fast", []):
            if "reserved_gib" in row:
                tokens, labels = row["tokens"] * row["rows"], (row["tokens"] - first_label(row["tokens"])) * row["rows"]
                peak = memory.peak_gib(shape, RANK, row["recompute"], tokens, 0.05, labels=labels)
                setting = f"{row['recompute']}, {row['rows']} x {row['tokens']}, {row['steps']} steps"
                rows.append(("fast lane, reserved", setting, row["reserved_gib"], peak))
        for row in found.get("swift", []):
            if "allocated_gib" in row:
                peak = swift_memory.peak_gib(shape, swift_memory.LoraSpec(RANK), *setting_of(row))
                setting = f"checkpointing {row['checkpointing']}, liger {row['liger']}, {row['rows']} x {row['tokens']}"
                rows.append(("ms-swift, allocated", setting, row["allocated_gib"], peak))
        for engine, setting, real, peak in rows:
            offs.append(peak / real - 1)
            print(f"| {file.stem} | {engine} | {setting} | {real:.2f} | {peak:.2f} | {offs[-1] * 100:+.1f} % |")
    if offs:
        met = max(offs) <= OVER and min(offs) >= UNDER
        print(f"\n{len(offs)} settings, {min(offs) * 100:+.1f} to {max(offs) * 100:+.1f} %: the bar is met: {met}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("table").set_defaults(run=lambda _: table())
    measuring = commands.add_parser("measure")
    measuring.add_argument("out", type=Path)
    measuring.add_argument("sizes", nargs="*", metavar="SIZE", default=["0.5B", "1.5B", "3B", "14B"])
    measuring.add_argument("--tokenizer", type=Path, help="a folder with the official tokenizer, for ms-swift")
    measuring.set_defaults(run=lambda args: measure(args.out, args.sizes, args.tokenizer))
    checking = commands.add_parser("check")
    checking.add_argument("out", type=Path)
    checking.set_defaults(run=lambda args: check(args.out))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
