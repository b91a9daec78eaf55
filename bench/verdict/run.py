"""Train a real small model well and badly on data sets of several kinds, and print what the verdict says of each.

    python -m bench.verdict.run MODEL_DIR OUT_DIR [--only NAME,NAME]
    python -m bench.verdict.run MODEL_DIR OUT_DIR --timing     # seconds of 50 and 5,000 FAQ rows; the 7B shape will do
    python -m bench.verdict.run MODEL_DIR OUT_DIR --timing --turns 1 --counts 50

Every run is `finetune` or `verify` as users start them. The table is printed, and saved in OUT_DIR/verdict.json with
every figure and its interval. Needs a model that answers in English (docs/verify.md names the one used) and a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import ROOT, environment
from bench.verdict import data

RATE, STEPS = "1e-3", "60"
COLUMNS = ("learned", "reworded", "unseen", "out_of_scope", "out_of_scope_near")


@dataclass(frozen=True)
class Case:
    """A training run and the verdict expected of it: `fails` is the threshold that must not be met."""

    name: str
    rows: str  # a function of data.py
    options: tuple[str, ...]
    fails: str = ""
    judged_on: str = ""  # another data set, given to verify afterwards


LONG = ("--learning_rate", RATE, "--max_steps", STEPS)
MIXED = ("--learning_rate", RATE, "--num_train_epochs", "30")
TASK = ("--learning_rate", RATE, "--num_train_epochs", "8")
CASES = (
    Case("faq", "faq", LONG),
    Case("faq --reword 2", "faq", (*LONG, "--reword", "2")),
    Case("faq --mix 40", "faq", (*MIXED, "--mix", "40")),
    Case("faq --reword 2 --mix 40", "faq", (*MIXED, "--reword", "2", "--mix", "40")),
    Case("faq2", "faq2", LONG),
    Case("faq2 --reword 2", "faq2", (*LONG, "--reword", "2")),
    Case("faq3", "faq3", LONG),
    Case("faq3 --reword 2", "faq3", (*LONG, "--reword", "2")),
    Case("untrained", "faq", ("--learning_rate", "1e-9", "--max_steps", "1"), "learned_min"),
    Case("permuted", "permuted", LONG, "learned_min", "faq"),
    Case("2 epochs", "faq", ("--learning_rate", "1e-4", "--num_train_epochs", "2"), "learned_min"),
    Case("lr x 30", "faq", ("--learning_rate", "3e-2", "--max_steps", STEPS), "general_lost_max"),
    Case("overwritten", "overwritten", LONG, "out_of_scope_max"),
    Case("labels", "labels", TASK),
    Case("style", "style", TASK),
    Case("extraction", "extraction", TASK),
)


def main() -> int:
    """Run the cases; exit code 1 if a verdict is not the expected one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="", help="names of cases, by comma")
    parser.add_argument("--timing", action="store_true", help="time 50 and 5,000 rows instead")
    parser.add_argument("--turns", type=int, default=2, help="with --timing: runs of each, the first one cold")
    parser.add_argument("--counts", default="50,5000", help="with --timing: numbers of rows, by comma")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.timing:
        return timing(args.model, args.out, [int(count) for count in args.counts.split(",")], args.turns)
    wanted = [case for case in CASES if not args.only or case.name in args.only.split(",")]
    results = []
    for case in wanted:
        results.append(one(case, args.model, args.out))
        (args.out / "verdict.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(line(results[-1]), flush=True)
    return int(any(result["wrong"] for result in results))


def one(case: Case, model: Path, out: Path) -> dict[str, Any]:
    """Train and judge one case; the FAQ is also asked its hand-written rewordings."""
    folder = out / case.name.replace(" ", "-")
    file = out / f"{case.rows}.json"
    file.write_text(json.dumps(getattr(data, case.rows)()), encoding="utf-8")
    report, seconds = trained(model, out, folder, "--dataset", str(file), *case.options)
    result: dict[str, Any] = {"name": case.name, "seconds": seconds, **short(report)}
    if case.judged_on:
        judged = out / f"{case.judged_on}.json"
        judged.write_text(json.dumps(getattr(data, case.judged_on)()), encoding="utf-8")
        result |= short(judge(model, out, folder, folder / "other", "--dataset", str(judged)))
    elif case.rows in data.FAQS:
        hand = out / f"by_hand_{case.rows}.yaml"
        hand.write_text(data.by_hand(case.rows), encoding="utf-8")
        report = judge(model, out, folder, folder / "hand", "--rewordings", str(hand))
        result["by_hand"] = report["figures"].get("reworded_after")
    result["wrong"] = bool(case.fails) and case.fails not in result["failed"]
    return result


def trained(model: Path, out: Path, folder: Path, *words: str) -> tuple[dict[str, Any], float]:
    """The verdict's report of a `finetune` into `folder`, and its seconds from start to exit."""
    begin = time.monotonic()
    done = start("finetune", model, out, "--output_dir", str(folder), *words)
    return read(folder / "verify/report.json", done), round(time.monotonic() - begin, 1)


def judge(model: Path, out: Path, folder: Path, to: Path, *words: str) -> dict[str, Any]:
    """The report of a further `verify` of the run in `folder`, written to `to`."""
    return read(to / "report.json", start("verify", model, out, str(folder), *words, "--output", str(to)))


def start(command: str, model: Path, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`finetune` or `verify` with this checkout's code and configurations."""
    configs = ROOT / "workspace/configs"
    head = ["sft", "--config", str(configs / "sft.yaml"), "--verify-config"] if command == "finetune" else ["--config"]
    environ = environment(str(model), str(out), str(out / "state")) | {"HEALTH_LEVEL": "off"}
    (out / "state").mkdir(exist_ok=True)
    line = [sys.executable, "-m", f"finetune.commands.{command}", *head, str(configs / "verify.yaml"), *words]
    return subprocess.run(line, env=environ, cwd=ROOT / "workspace", capture_output=True, text=True, check=False)


def read(path: Path, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """A report; if there is none, ends the script with the command's output."""
    if not path.is_file() or done.returncode not in (0, 1):
        sys.exit(f"exit code {done.returncode}, no {path}:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def short(report: dict[str, Any]) -> dict[str, Any]:
    """The part of a report that the table and docs/verify.md need."""
    return {
        "verdict": report["verdict"],
        "failed": [name for name, check in report["thresholds"].items() if not check["ok"]],
        "advice": report["advice"],
        "kind": report["data"]["kind"],
        "rewordings": report["data"]["rewordings"],
        "figures": report["figures"],
        "verify_seconds": report["seconds"],
    }


def line(result: dict[str, Any]) -> str:
    """One case as a line."""
    cells = []
    for name in COLUMNS:
        ends = [result["figures"].get(f"{name}_{side}") for side in ("before", "after")]
        if all(ends):
            cells.append(f"{name} {100 * ends[0]['value']:.0f} -> {100 * ends[1]['value']:.0f} %")
    lost = result["figures"].get("general_lost")
    cells.append(f"general lost {100 * lost['value']:.0f} %" if lost else "")
    hand = result.get("by_hand")
    if hand:
        cells.append(f"by hand {100 * hand['value']:.0f} % ({100 * hand['low']:.0f}-{100 * hand['high']:.0f})")
    mark = "NOT AS IT SHOULD BE " if result["wrong"] else ""
    failed = ", ".join(result["failed"]) or "nothing"
    return f"{mark}{result['name']}: {result['verdict']} ({failed}); {'; '.join(cells)}; {result['seconds']} s"


def timing(model: Path, out: Path, counts: Sequence[int], turns: int) -> int:
    """Seconds of `finetune` from start to exit for FAQs of these sizes, `turns` times each; the first is cold."""
    for count in counts:
        file = out / f"many-{count}.json"
        file.write_text(json.dumps(data.many(count)), encoding="utf-8")
        steps = ("--max_steps", "40") if count > 1000 else ("--num_train_epochs", "10")
        for turn in range(1, turns + 1):
            folder = out / f"timing-{count}-{turn}"
            begin = time.monotonic()
            done = start("finetune", model, out, "--dataset", str(file), "--output_dir", str(folder), *steps)
            report = read(folder / "verify/report.json", done)
            print(f"{count} rows, turn {turn}: {time.monotonic() - begin:.1f} s; verdict's parts {report['seconds']}")
            print("  " + done.stderr.strip().splitlines()[-1], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
