"""Time verify on 200 questions, before and after, on random weights of the 7B shape; run by hand where a GPU is.

    python -m bench.verify_200 --tokenizer DIR [--model DIR] [--runs 2]

DIR holds the files of a Qwen2.5 tokenizer (the stand-in has them). The model folder (15 GB) is created if it does not
exist, and is in the page cache afterwards. Time counts from the start of the process to its exit, reports written. The
bars are 25 s and 17 GiB on one H100, for 32 new tokens each. Exit code 1 if the fastest run misses one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import random_weights
from bench.machine import Peak, gpu_mib

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS, NEW_TOKENS = 200, 32
BAR_SECONDS, BAR_GIB = 25.0, 17.0


def make_questions(folder: Path) -> Path:
    """A configuration with exactly 200 questions, all in the workspace's own wording, each asked once."""
    import yaml

    heldout = yaml.safe_load((ROOT / "workspace/questions/identity.yaml").read_text(encoding="utf-8"))["heldout"]
    general = yaml.safe_load((ROOT / "workspace/questions/general.yaml").read_text(encoding="utf-8"))["questions"]
    rows = json.loads((ROOT / "workspace/self_cognition.json").read_text(encoding="utf-8"))
    asked = [*heldout, *general]
    texts = [row["instruction"] for row in rows] + [f"{n}加{n + 1}等于几?" for n in range(10, 100)]
    for number, text in enumerate(texts[: QUESTIONS - len(asked)]):
        asked.append({"id": f"more-{number}", "question": text, "expect": "CSDN"})
    path = folder / "questions.yaml"
    path.write_text(
        yaml.safe_dump({"version": 1, "questions": asked[:QUESTIONS]}, allow_unicode=True), encoding="utf-8"
    )
    config = folder / "verify.yaml"
    config.write_text("thresholds: {identity_heldout_min: 0.8, bleu_drop_max: 0.8}\nquestions: [questions.yaml]\n")
    return config


def once(adapter: Path, model: Path, config: Path, output: Path) -> dict[str, Any]:
    """One verify process; its wall time from start to exit, and its report."""
    from finetune.verify.engine import DEFAULT_SYSTEM

    options = {
        "--model": model,
        "--config": config,
        "--output": output,
        "--system": DEFAULT_SYSTEM,  # the same as the second prompt, so that each question is asked once
        "--max-new-tokens": NEW_TOKENS,
    }
    command = [sys.executable, "-m", "finetune.commands.verify", str(adapter), "--summary"]
    command += [str(word) for pair in options.items() for word in pair]
    with Peak(gpu_mib, every_s=0.1) as peak:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode not in (0, 1):  # random weights fail the verdict; anything else is an error
        raise SystemExit(done.stderr)
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    answers = [a for q in report["questions"] for each in q["asked"] for a in each["answers"].values()]
    assert len(report["questions"]) == QUESTIONS
    assert len(answers) == 2 * QUESTIONS
    return {
        "wall_s": round(peak.seconds, 2),
        "seconds": report["seconds"],
        "memory_gib": report["memory"],
        "nvidia_smi_gib": round(peak.value / 1024, 2),
        "answers": len(answers),
        "tokens": sum(a["tokens"] for a in answers),
        "device": report["model"]["device"],
        "versions": report["versions"],
    }


def main() -> int:
    """Create what is missing, run, print one JSON line per run and a verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with the files of a Qwen2.5 tokenizer")
    parser.add_argument("--model", type=Path, default=Path(tempfile.gettempdir()) / "random-7b")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--layers", type=int, help="fewer than 28, to try the script out")
    args = parser.parse_args()
    if not random_weights.is_whole(args.model):
        random_weights.make(args.model, args.tokenizer, layers=args.layers)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        adapter = random_weights.make_adapter(args.model, folder / "checkpoint-1", seed=1)
        config = make_questions(folder)
        runs = [once(adapter, args.model, config, folder / f"out{n}") for n in range(args.runs)]
    for run in runs:
        print(json.dumps(run))
    best = min(runs, key=lambda run: run["wall_s"])
    if best["memory_gib"] is None:
        print("no GPU: the bars are not judged")
        return 0
    peak = max(best["memory_gib"]["reserved"], best["nvidia_smi_gib"])
    met = best["wall_s"] < BAR_SECONDS and peak < BAR_GIB
    print(
        f"{'met' if met else 'MISSED'}: {best['wall_s']} s (bar {BAR_SECONDS} s), peak {peak} GiB (bar {BAR_GIB} GiB)"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
