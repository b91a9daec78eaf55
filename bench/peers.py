"""The article's job by the fast lane and by its peers, in one run on one GPU.

    python bench/peers.py MODEL_DIR [--state cold] [--repeat 3] [--only fast,swift,...] [--out build/bench]

Every contender is a fresh process, one after the other. Its wall time runs from process start to exit, with the adapter
on disk. Writes peers.json, and prints a Markdown table. A contender with missing packages is named and left out. For
times, random weights of the 7B's shape do as well as the real ones; losses mean little on them.

States: *warm* is a second run on the same machine, in its own output folder. *again* is warm in the output folder of an
earlier run, which has the base's answers (the first run of `--state again` creates them). *container* is the state in
`docker run --rm`: files are in the page cache, but no kernel was compiled by Triton in an earlier run. *cold* drops the
page cache as well (as root), as after a boot; the fast lane then reads ahead, as the image's entry point does.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from bench.machine import environment  # noqa: E402
from common.json_files import json_object  # noqa: E402

CONFIG = ROOT / "workspace" / "configs"
# Settings of tuned ms-swift: one piece of 16 rows, no recomputation, liger's kernels; it fits under 22 GiB.
TUNED = shlex.split(
    "--per_device_train_batch_size 16 --gradient_accumulation_steps 1 --gradient_checkpointing false "
    "--use_liger_kernel true"
)
# The article's own line (section 2.3), with ms-swift 4's name for --train_type.
ARTICLE = shlex.split(
    "--tuner_type lora --torch_dtype bfloat16 --num_train_epochs 10 --per_device_train_batch_size 1 "
    "--per_device_eval_batch_size 1 --learning_rate 1e-4 --lora_rank 8 --lora_alpha 32 --target_modules "
    "all-linear --gradient_accumulation_steps 16 --eval_steps 50 --save_steps 50 --save_total_limit 2 "
    "--logging_steps 5 --max_length 2048 --warmup_ratio 0.05 --dataloader_num_workers 4 --model_author "
    "swift --model_name swift-robot"
)


def contenders(model: str, rows: str, more: list[str], tuned: list[str]) -> dict[str, dict[str, Any]]:
    """{name: its requirements, its environment and its command}; {out} is replaced with a new folder."""
    options = ["sft", "--config", str(CONFIG / "sft.yaml"), "--dataset", rows]
    sft = [sys.executable, "-m", "finetune.commands.sft", *options, *more]
    whole = [sys.executable, "-m", "finetune.commands.finetune", *options, f"--verify-config={CONFIG / 'verify.yaml'}"]
    recipe = [sys.executable, str(ROOT / "bench" / "peer_recipes.py")]
    return {
        "fast": {"needs": [], "env": {"ENGINE": "fast"}, "line": [*sft, "--output_dir", "{out}"]},
        "finetune": {"needs": ["sacrebleu"], "env": {"ENGINE": "fast"}, "line": [*whole, "--output_dir", "{out}"]},
        "peft": {"needs": ["peft"], "env": {}, "line": [*recipe, "peft", model, "{out}", "--rows", rows]},
        "trl": {"needs": ["trl"], "env": {}, "line": [*recipe, "trl", model, "{out}", "--rows", rows]},
        "swift": {
            "needs": ["swift", "liger_kernel"],
            "env": {"ENGINE": "swift"},
            "line": [*sft, *tuned, "--output_dir", "{out}"],
        },
        "article": {
            "needs": ["swift"],
            "env": {},
            "line": [
                "swift", "sft", "--model", model, "--dataset", rows, "--system", "You are a helpful assistant.",
                *ARTICLE, "--output_dir", "{out}", "--add_version", "false",
            ],
        },
    }  # fmt: skip


DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def enter(state: str, folder: str, model: str, ahead: bool) -> dict[str, str]:
    """Bring the machine into a state; returns its environment. `ahead`: read ahead if nothing is cached.

    Raises SystemExit if dropping the page cache is not permitted.
    """
    if state == "warm":
        return {}
    if state == "again":
        return {"OUTPUT_DIR": str(Path(tempfile.gettempdir()) / "bench-output")}
    if state == "cold":
        os.sync()
        try:
            DROP_CACHES.write_text("3")
        except OSError as error:
            sys.exit(f"error: --state cold drops the page cache, which wants root outside a container: {error}")
        if ahead:
            script = ROOT / "entrypoint" / "read_ahead.py"
            subprocess.Popen([sys.executable, "-I", "-S", str(script), model])
    return {"TRITON_CACHE_DIR": f"{folder}/triton"}


def run(name: str, contender: dict[str, Any], model: str, keep: Path | None, state: str = "warm") -> dict[str, Any]:
    """Run one process from start to end; its wall seconds, and the figures in its own log."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        out = Path(folder) / "run"
        env = environment(model, folder, f"{folder}/state") | contender["env"]
        line = [word.replace("{out}", str(out)) for word in contender["line"]]
        env |= enter(state, folder, model, ahead=name in ("fast", "finetune"))
        begin = time.perf_counter()
        done = subprocess.run(line, env=env, capture_output=True, text=True, cwd=folder, check=False)
        wall = time.perf_counter() - begin
        found: dict[str, Any] = {"contender": name, "state": state, "wall_s": round(wall, 2), "exit": done.returncode}
        found |= own_figures(out, done.stdout)
        if done.returncode not in (0, 1) or "losses" not in found:
            found["error"] = (done.stderr or done.stdout)[-1500:]
        found["says"] = [
            line for line in done.stderr.splitlines() if line.startswith(("engine:", "plan:", "finetune:"))
        ]
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            for file in ("run.json", "logging.jsonl", "verify/report.json"):
                if (out / file).is_file():
                    shutil.copy(out / file, keep / f"{name}-{Path(file).name}")
        return found


def own_figures(out: Path, stdout: str) -> dict[str, Any]:
    """Losses, ms per step and peaks: from run.json and logging.jsonl, or from the JSON in a recipe's last line."""
    try:
        last = json.loads(stdout.strip().splitlines()[-1])
        if isinstance(last, dict) and "losses" in last:
            return last
    except (ValueError, IndexError):
        pass
    found: dict[str, Any] = {}
    lines = []
    if (out / "logging.jsonl").is_file():
        lines = [json.loads(text) for text in (out / "logging.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss" in line]
    if logged:
        found["losses"] = [round(line["loss"], 4) for line in logged]
        found["steps"] = int(logged[-1]["global_step/max_steps"].split("/")[0])
        found["ms_per_step"] = 1000 * float(logged[-1]["train_speed(s/it)"])
        found["reserved_gib"] = max(float(line.get("memory(GiB)", 0)) for line in logged)
    for line in lines:
        if "train_runtime" in line:
            found["train_s"] = line["train_runtime"]
    figures = json_object(out / "run.json").get("figures", {})
    names = ("load_seconds", "setup_seconds", "loop_seconds", "ms_per_step")
    found |= {name: figures[name] for name in names if name in figures}
    if report := json_object(out / "verify" / "report.json"):
        found |= {"verdict": report["verdict"], "answers": len(report["questions"]), "verify_s": report["seconds"]}
        found["verify_memory"] = report["memory"]
    return found


def table(results: list[dict[str, Any]]) -> str:
    """The medians as Markdown."""
    lines = [
        "| contender | runs | wall, s | ms a step | reserved, GiB | last loss |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(each["contender"] for each in results):
        mine = [each for each in results if each["contender"] == name and "losses" in each]
        if not mine:
            lines.append(f"| {name} | 0 | failed | | | |")
            continue
        walls = sorted(each["wall_s"] for each in mine)
        spread = f"{statistics.median(walls):.1f}" + (f" ({walls[0]:.1f}-{walls[-1]:.1f})" if len(walls) > 1 else "")
        step = statistics.median(each["ms_per_step"] for each in mine)
        reserved = max(each.get("reserved_gib", 0) for each in mine)
        lines.append(
            f"| {name} | {len(mine)} | {spread} | {step:.1f} | {reserved:.2f} | {mine[-1]['losses'][-1]:.3f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run them one after the other; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model_dir")
    parser.add_argument("--rows", default=str(ROOT / "workspace" / "self_cognition.json"))
    parser.add_argument("--state", choices=("warm", "again", "container", "cold"), default="warm")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--once", default="article", help="contenders that run once: they take minutes")
    parser.add_argument("--only", default="", help="names, with commas between")
    parser.add_argument("--more", default="", help="options for the fast lane and ms-swift: '--num_train_epochs 1'")
    parser.add_argument("--tuned", default=shlex.join(TUNED), help="how ms-swift is tuned")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    args = parser.parse_args()
    model, rows = str(Path(args.model_dir).resolve()), str(Path(args.rows).resolve())
    chosen = contenders(model, rows, shlex.split(args.more), shlex.split(args.tuned))
    if args.only:
        chosen = {name: chosen[name] for name in args.only.split(",")}
    for name in [name for name, each in chosen.items() if any(find_spec(need) is None for need in each["needs"])]:
        print(f"{name}: left out, its packages are not installed", file=sys.stderr)
        del chosen[name]
    args.out.mkdir(parents=True, exist_ok=True)
    results = []
    for turn in range(args.repeat):
        for name, contender in chosen.items():
            if turn and name in args.once.split(","):
                continue
            results.append(run(name, contender, model, args.out if turn == 0 else None, args.state))
            short = {k: v for k, v in results[-1].items() if k not in ("losses", "says")}
            print(json.dumps(short, ensure_ascii=False), file=sys.stderr, flush=True)
            (args.out / "peers.json").write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n")
    print(table(results))
    return int(any("error" in each for each in results))


if __name__ == "__main__":
    sys.exit(main())
