"""`runs`: lists the runs below the output folder, newest first, with data, rows, steps, loss, verdict and size."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import host
from common.errors import DONE, Parser, UserError, run_main
from common.i18n import N_, _
from common.json_files import json_object
from common.settings import Settings
from finetune.runs import run_folder

# The column `verdict`: the verdict of the report, else how the run ended; a dash if it is done and has no report.
VERDICTS = {
    "pass": "PASS",
    "fail": "FAIL",
    "done": "-",
    "running": N_("running"),
    "stopped": N_("stopped"),
    "failed": N_("failed"),
    "killed": N_("killed"),
}


@dataclass(frozen=True)
class Listed:
    """One run in the list. `verdict` is pass or fail, from its report; None without a report."""

    name: str
    folder: str  # its path on the host
    started: str
    status: str  # done, running, stopped, failed or killed
    data: list[str]
    rows: int | None
    steps: int | None
    first_loss: float | None
    final_loss: float | None
    verdict: str | None
    adapter: str | None
    bytes: int


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser(prog="runs", description=_("The runs below the output folder, newest first."))
    p.add_argument("folder", nargs="?", type=Path, help=_("the folder with the runs (default: $OUTPUT_DIR)"))
    p.add_argument("--json", action="store_true", help=_("print JSON"))
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """List the runs; returns the exit code."""
    args = parser().parse_args(argv)
    folder = args.folder or Settings.from_env().output_dir
    if not folder.is_dir():
        raise UserError(
            _("{folder}: no such folder, so there is no run in it; {finetune} makes one").format(
                folder=folder, finetune=host.call("finetune")
            )
        )
    found = [describe(run, record) for run, record in reversed(run_folder.all_runs(folder))]
    if args.json:
        print(json.dumps([asdict(each) for each in found], ensure_ascii=False, indent=2))
    elif found:
        show(found)
    else:
        told = _("{folder}: no run in it; {finetune} makes one")
        print(told.format(folder=host.shown(folder), finetune=host.call("finetune")), file=sys.stderr)
    return DONE


def describe(folder: Path, record: dict[str, Any]) -> Listed:
    """A run from run.json (`record`), its log and its report; what they lack is None."""
    done = run_folder.progress(folder) | record
    datasets = [item for item in record.get("datasets") or [] if isinstance(item, dict)]
    counts = [item.get("sample") or item.get("rows") for item in datasets]
    known = [count for count in counts if isinstance(count, int)]
    report = json_object(folder / "verify" / "report.json")
    return Listed(
        name=folder.name,
        folder=host.shown(folder),
        started=str(record.get("started", "")),
        status=str(record.get("status", "")),
        data=[Path(str(item.get("path") or item.get("name") or "?")).name for item in datasets],
        rows=sum(known) if known else None,
        steps=_number(done.get("steps"), int),
        first_loss=_number(done.get("first_loss"), float),
        final_loss=_number(done.get("final_loss"), float),
        verdict=report.get("verdict") if report.get("verdict") in ("pass", "fail") else None,
        adapter=record.get("adapter") if isinstance(record.get("adapter"), str) else None,
        bytes=_size(folder),
    )


def show(found: Sequence[Listed]) -> None:
    """Print a table as wide as the terminal. If the output is a file, no column is cut."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(_("name"), no_wrap=True)
    table.add_column(_("data"), overflow="ellipsis", no_wrap=True, max_width=28)
    for title in (_("rows"), _("steps")):
        table.add_column(title, justify="right")
    table.add_column(_("loss"), no_wrap=True)
    table.add_column(_("verdict"), no_wrap=True)
    table.add_column(_("size"), justify="right", no_wrap=True)
    for each in found:
        verdict = VERDICTS.get(each.verdict or each.status, each.status)
        style = {"pass": "green", "fail": "red"}.get(each.verdict or "", "yellow")
        loss = "" if each.final_loss is None else f"{each.first_loss:.2f} -> {each.final_loss:.2f}"
        table.add_row(
            each.name,
            Text(", ".join(each.data)),
            "" if each.rows is None else str(each.rows),
            "" if each.steps is None else str(each.steps),
            loss,
            Text(verdict if each.verdict else _(verdict), style),
            _shown_size(each.bytes),
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    console.print(table)


def _number(value: Any, kind: type) -> Any:
    return kind(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _size(folder: Path) -> int:
    """The bytes of all files of a run; files that cannot be read count as 0."""
    total = 0
    for where, _folders, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_size
            except OSError:
                continue
    return total


def _shown_size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


if __name__ == "__main__":
    sys.exit(run_main(main))
