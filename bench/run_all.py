"""What `make bench` runs: every contender and the fast lane's own figures, on one CUDA GPU, in one go.

    python bench/run_all.py OUT_DIR [--model DIR] [--repeat 3]

The model is the image's. If that is the stand-in, random weights of the 7B shape (15 GB) are created in OUT_DIR/weights
first. Writes all.json (every line that the parts printed), peers/peers.json, and wall.png; about 30 minutes on an H100.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# name -> the arguments after `python bench/`; {model} and {out} are filled in
PARTS = {
    "peers": "peers.py {model} --tuned= --repeat {repeat} --once article --out {out}/peers",
    "floor": "fast_lane.py {model} --floor --ceiling 70 --tokens 736",
    "job": "fast_lane.py {model}",
    "rows_2048": "fast_lane.py {model} --rows-2048 --only 1swiglu",
    "rows_2048_peft": "peer_recipes.py long {model} {out}/long",
    "mixed_rows": "mixed_rows.py {out}/mixed.json",
    "mixed": "peers.py {model} --rows {out}/mixed.json --only fast,swift --tuned= --more=--num_train_epochs=1 "
    "--repeat 1 --out {out}/mixed",
    "losses": "fast_lane.py {model} --losses",
    "dropout": "fast_lane.py {model} --dropout-seeds 5",
}


def part(name: str, words: str) -> dict[str, Any]:
    """Run one part in a separate process; its exit code, seconds and the last line of JSON that it printed."""
    print(f"== {name}: python bench/{words}", file=sys.stderr, flush=True)
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, *f"bench/{words}".split()], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = {"command": f"python bench/{words}", "exit": done.returncode}
    found["seconds"] = round(time.perf_counter() - begin, 1)
    print(done.stdout, flush=True)
    for line in reversed(done.stdout.splitlines()):
        try:
            return found | {"figures": json.loads(line)}
        except ValueError:
            continue
    return found


def plot(peers: list[dict[str, Any]], file: Path) -> None:
    """Median wall seconds of each contender that finished, as bars."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    walls: dict[str, list[float]] = {}
    for each in peers:
        if "error" not in each:
            walls.setdefault(each["contender"], []).append(each["wall_s"])
    ranked = sorted(((statistics.median(found), name) for name, found in walls.items()), reverse=True)
    figure, axes = pyplot.subplots(figsize=(7, 0.5 * len(ranked) + 1.2), layout="constrained")
    bars = axes.barh([name for _, name in ranked], [wall for wall, _ in ranked])
    axes.bar_label(bars, [f"{wall:.1f}" for wall, _ in ranked], padding=3)
    axes.set_xlabel("seconds from process start to the adapter on disk (median)")
    axes.margins(x=0.1)
    figure.savefig(file, dpi=120)


def main() -> int:
    """Run the parts one after the other; 1 if one failed, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, default=Path(os.environ.get("MODEL_DIR") or "/root/Qwen2.5-7B-Instruct"))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    args = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("error: bench needs a CUDA GPU, and none answers here; `make finetune` runs on a CPU", file=sys.stderr)
        return 2
    from bench import random_weights
    from common.model_kind import kind_of

    args.out.mkdir(parents=True, exist_ok=True)
    model = args.model
    if kind_of(model).is_for_tests:
        model = args.out / "weights"
        if not random_weights.is_whole(model):
            random_weights.make(model, args.model)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
        "weights": "random, of the 7B's shape" if model != args.model else str(model), "parts": {},
    }  # fmt: skip
    torch.cuda.empty_cache()
    for name in args.only.split(","):
        found["parts"][name] = part(name, PARTS[name].format(model=model, out=args.out, repeat=args.repeat))
        (args.out / "all.json").write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if (args.out / "peers" / "peers.json").is_file():
        plot(json.loads((args.out / "peers" / "peers.json").read_text(encoding="utf-8")), args.out / "wall.png")
    print(f"{args.out}/all.json, peers/peers.json, wall.png", file=sys.stderr)
    return int(any(each["exit"] for each in found["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
