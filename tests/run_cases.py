"""Runs a folder of small inputs from reports, and prints for each what is right and what the project says: a table.

    python -m tests.run_cases FOLDER --model MODEL_DIR [--url http://127.0.0.1:8000 --key KEY]

A file's number (07_name.jsonl) is its kind, and RIGHT says what is right for a kind. Data files go through check-data,
folders through the check of adapters, against the model in MODEL_DIR; requests (*.request.json) are made regular as
serve does it, and with --url they are sent to a running endpoint as well. What takes two runs and a server (*.sh) is a
test of its own: ELSEWHERE names it. Exit code 1 where one is not right. The folder is not part of the project.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.errors import UserError
from finetune.runs import adapters
from finetune.serve.fields import Refused
from finetune.serve.request import ChatRequest, regular

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Said:
    """What the project said: the exit code of a command (a request's status over 100, 0 for one taken), and words."""

    code: int
    words: str
    request: ChatRequest | None = None


def says(code: int, *wanted: str) -> Callable[[Said], bool]:
    """Right where the code is this one and all these words are said."""
    return lambda said: said.code == code and all(word in said.words for word in wanted)


# kind -> (in words, whether it is so)
RIGHT: dict[str, tuple[str, Callable[[Said], bool]]] = {
    "01": ("read as what it is and said, or refused", lambda s: s.code == 2 or "guessed encoding" in s.words),
    "03": ("fit", says(0, "fit")),
    "04": ("exit 2, row and field named", says(2, "row ")),
    "05": ("refused with row and field", says(2, "row 1, ")),
    "06": ("fit, no tools", says(0, "fit")),
    "07": ("fit (no loss there: unit tests), or a warning", says(0, "fit")),
    "08": ("at most 5 tokens", lambda s: s.request is not None and s.request.max_tokens == 5),
    "09": ("taken", says(0)),
    "10": ("taken", says(0)),
    "11": ("taken, with stop texts", lambda s: s.request is not None and bool(s.request.stop)),
    "12": ("two choices", lambda s: s.request is not None and s.request.n == 2),
    "13": ("JSON, or 400 that says so", says(400, "response_format")),
    "14": ("taken, or 400 in words", lambda s: s.code == 0 or (s.code == 400 and "system" in s.words)),
    "15": ("usage where asked for", lambda s: s.request is not None and s.request.stream),
    "16": ("refused: keys fit nothing", says(2)),
    "18": ("as a person sees it; the rest named", says(0, "fit")),
    "20": ("loads, or named with the way", says(0)),
    "21": ("a warning", says(0, "turns joined")),
    "22": (
        "taken, or the cause named",
        lambda s: s.code == 0 or any(w in s.words for w in ("comma", "comment", "key", "list")),
    ),
}
ELSEWHERE = {
    "02": "serve/test_serve_openai.py::test_every_name_is_asked_under_its_own_training_s_system_prompt",
    "17": "runs/test_adapters.py::test_every_verb_refuses_an_adapter_that_does_not_fit",
    "19": "runs/test_adapters.py::test_training_on_from_a_checkpoint_of_the_fast_lane_names_the_way",
}


def check_data(file: Path, model: Path) -> Said:
    """check-data on one file."""
    environment = os.environ | {"MODEL_DIR": str(model), "NO_COLOR": "1", "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "finetune.commands.check_data", str(file)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return Said(done.returncode, done.stdout + done.stderr)


def adapter(folder: Path, model: Path) -> Said:
    """The check that every verb makes."""
    try:
        return Said(0, f"taken: {adapters.find(folder, folder.parent, model).name}")
    except UserError as error:
        return Said(2, str(error))


def request(file: Path, endpoint: str, key: str) -> Said:
    """A request made regular; with an endpoint, its status is looked at too."""
    body: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    asked = None
    try:
        asked = regular(body, {str(body["model"]): "You are a helpful assistant."})
        said = Said(0, "taken", asked)
    except Refused as refused:
        said = Said(refused.status, str(refused))
    if not endpoint:
        return said
    head = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    sent = urllib.request.Request(f"{endpoint}/v1/chat/completions", json.dumps(body).encode(), head)
    try:
        with urllib.request.urlopen(sent, timeout=120) as answer:
            status, words = 0, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, words = error.code, error.read().decode()
    return Said(status, words, asked)


def main() -> int:
    """Run them all; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="the base: the stand-in's folder")
    parser.add_argument("--url", default="", help="a running endpoint, for the requests")
    parser.add_argument("--key", default="", help="its key")
    args = parser.parse_args()
    table = Table("case", "right", "", "said", box=None)
    wrong = 0
    for path in sorted(args.folder.iterdir()):
        kind = path.name[:2]
        if path.suffix == ".sh" and kind in ELSEWHERE:
            table.add_row(path.name, "see the test", "", ELSEWHERE[kind])
            continue
        if kind not in RIGHT:
            continue
        if path.is_dir():
            said = adapter(path, args.model)
        elif path.name.endswith(".request.json"):
            said = request(path, args.url, args.key)
        else:
            said = check_data(path, args.model)
        words, is_right = RIGHT[kind]
        good = is_right(said)
        wrong += not good
        lines = [line.strip() for line in said.words.splitlines() if line.strip()]
        shown = next((line for line in lines if line.startswith("error:") or "fit" in line), lines[-1] if lines else "")
        table.add_row(path.name, words, "ok" if good else "WRONG", escape(shown[:110]))
    Console(width=220, highlight=False).print(table)
    print(f"{wrong} not right")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
