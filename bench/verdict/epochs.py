"""Does `--num_train_epochs auto` find the right number? A data set at fixed numbers of epochs, and chosen.

    python -m bench.verdict.epochs MODEL_DIR OUT_DIR [--rows faq] [--fixed 5,10,20,40] [--seeds 42] [--rate 1e-3]
        [--by-hand]

Every run is `finetune` as users start it, with the same rewordings for all (created once, passed to the others). The
table is printed, and saved in OUT_DIR/epochs.json with figures, intervals, and the basis of each choice.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench.verdict import data
from bench.verdict.run import judge, trained

AUTO = "auto"


def main() -> int:
    """Run them; exit code 1 if the chosen one is more than 5 points below the best fixed one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", default="faq", help="a function of data.py")
    parser.add_argument("--fixed", default="5,10,20,40")
    parser.add_argument("--seeds", default="42")
    parser.add_argument("--rate", default="1e-3")
    parser.add_argument("--by-hand", action="store_true", help="also ask the hand-written rewordings")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="further options of finetune, at the end")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rows.json").write_text(json.dumps(getattr(data, args.rows)()), encoding="utf-8")
    (args.out / "by_hand.yaml").write_text(data.by_hand(), encoding="utf-8")
    results = []
    for seed in args.seeds.split(","):
        found: dict[str, Any] = {}
        results.append({"seed": seed, "runs": found})
        for number in [AUTO, *args.fixed.split(",")]:
            found[number] = one(args, number, seed)
            print(line(number, found[number]), flush=True)
            (args.out / "epochs.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return int(any(short_by(result["runs"]) > 0.05 for result in results))


def one(args: argparse.Namespace, number: str, seed: str) -> dict[str, Any]:
    """One training run and its verdict."""
    folder = args.out / f"epochs-{number}-{seed}"
    words = ["--dataset", str(args.out / "rows.json"), "--num_train_epochs", number]
    words += ["--learning_rate", args.rate, "--seed", seed, *args.more]
    kept = args.out / f"epochs-{AUTO}-{seed}" / "rewordings.yaml"
    if number != AUTO and kept.is_file():
        words += ["--rewordings", str(kept)]
    report, seconds = trained(args.model, args.out, folder, *words)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    run = {"seconds": seconds, "figures": report["figures"], "epochs": record.get("epochs")}
    if args.by_hand:
        hand = judge(args.model, args.out, folder, folder / "hand", "--rewordings", str(args.out / "by_hand.yaml"))
        run["by_hand"] = hand["figures"]["reworded_after"]
    return run


def short_by(runs: dict[str, Any]) -> float:
    """How far the chosen run's reworded questions, or unseen rows, are below the best fixed one's, as a share."""
    shares = {number: run["figures"][figure_of(run)]["value"] for number, run in runs.items()}
    return max(value for number, value in shares.items() if number != AUTO) - shares[AUTO]


def figure_of(run: dict[str, Any]) -> str:
    """The figure by which a run is judged."""
    return "reworded_after" if "reworded_after" in run["figures"] else "unseen_after"


def line(number: str, run: dict[str, Any]) -> str:
    """One run as a line."""
    figures = run["figures"]
    cells = [f"{name} {100 * figures[name]['value']:.0f} %" for name in ("learned_after", figure_of(run))]
    if "by_hand" in run:
        cells.append(f"by hand {100 * run['by_hand']['value']:.0f} %")
    cells.append(f"general lost {100 * figures['general_lost']['value']:.0f} %")
    text = f"{number} epochs: {', '.join(cells)}; {run['seconds']} s"
    if run["epochs"]:
        curve = " ".join(f"{each['epoch']}:{each['right']}/{each['general']}" for each in run["epochs"]["curve"])
        text += f"\n  {run['epochs']['why']}\n  epoch:right/general {curve}"
    return text


if __name__ == "__main__":
    raise SystemExit(main())
