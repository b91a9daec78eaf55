"""The output of check-data: a table of findings and a histogram of token lengths on the terminal, or JSON, or HTML."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.i18n import N_, _
from finetune.data.findings import FileReport

BARS = 10
WIDTH = 40  # columns of the longest bar
SHOWN = 5  # findings of one kind in the table

# These kinds of findings are constants in the code and are translated when they are shown.
WORDS = (N_("broken"), N_("empty"), N_("missing"), N_("duplicate"), N_("placeholder"))


def terminal(console: Console, reports: list[FileReport]) -> None:
    """Print a line for each file, the findings, and the histogram."""
    for report in reports:
        state = (_("{count} error") if report.errors == 1 else _("{count} errors")).format(count=report.errors)
        if not report.errors:
            state = _("fit")
        if report.warnings:
            state += (_(", {count} warning") if report.warnings == 1 else _(", {count} warnings")).format(
                count=report.warnings
            )
        line = _("{file}: {rows} rows ({encoding}), {state}").format(
            file=escape(report.file), rows=report.rows, encoding=report.encoding, state=state
        )
        console.print(line, highlight=False, soft_wrap=True)
    if any(report.findings for report in reports):
        console.print(_table(reports))
    lengths = [length for report in reports for length in report.lengths]
    if lengths:
        _histogram(console, reports, lengths)


def _table(reports: list[FileReport]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (_("kind"), _("rows"), _("place"), _("what"), _("what to do")):
        table.add_column(heading, overflow="fold", justify="right" if heading == _("rows") else "left")
    for report in reports:
        name = f"{Path(report.file).name}: " if len(reports) > 1 else ""
        for kind, rows in sorted(report.numbers.items(), key=lambda item: not _is_error(report, item[0])):
            findings = [finding for finding in report.findings if finding.kind == kind]
            style = "red" if _is_error(report, kind) else "yellow"
            for index, finding in enumerate(findings[:SHOWN]):
                head = (f"[{style}]{_(kind)}[/]", str(len(rows))) if index == 0 else ("", "")
                table.add_row(*head, escape(name + finding.where), escape(_(finding.what)), escape(finding.remedy))
            if len(findings) > SHOWN:
                more = _("... and {count} more").format(count=len(rows) - SHOWN)
                table.add_row("", "", more, "", _("--json lists all rows by number"))
    return table


def _is_error(report: FileReport, kind: str) -> bool:
    return next((finding.error for finding in report.findings if finding.kind == kind), True)


def _histogram(console: Console, reports: list[FileReport], lengths: list[int]) -> None:
    sampled = _(", a sample") if any(report.sampled for report in reports) else ""
    ordered = sorted(lengths)
    median, high = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    console.print(
        _(
            "tokens of a row (template included): {shortest} to {longest}, median {median}, 99 % at most "
            "{high} (of {count} rows{sampled})"
        ).format(
            shortest=ordered[0], longest=ordered[-1], median=median, high=high, count=len(lengths), sampled=sampled
        ),
        highlight=False,
        soft_wrap=True,
    )
    bars = histogram(lengths)
    most = max(count for _other, _other, count in bars)
    for low, top, count in bars:
        span = f"{low:>7}-{top:<7}" if top > low else f"{low:>7}{'':8}"
        bar = "█" * max(1, round(WIDTH * count / most)) + " " if count else ""
        console.print(f"{span} {bar}{count}", highlight=False)


def histogram(lengths: list[int]) -> list[tuple[int, int, int]]:
    """Rows by length, in at most BARS classes of equal width: (shortest, longest, rows) of each, in tokens."""
    low, high = min(lengths), max(lengths)
    step = max(1, -(-(high - low + 1) // BARS))
    counts = Counter((length - low) // step for length in lengths)
    return [(low + i * step, low + (i + 1) * step - 1, counts[i]) for i in range((high - low) // step + 1)]


def as_data(reports: list[FileReport]) -> dict[str, Any]:
    """The reports as JSON data: all counts and row numbers, and the first findings of each kind in full."""
    files = []
    for report in reports:
        data = asdict(report)
        data["tokens"] = {
            "counted_rows": len(report.lengths),
            "sampled": report.sampled,
            "min": min(report.lengths, default=None),
            "max": max(report.lengths, default=None),
            "sum": sum(report.lengths),
            "histogram": histogram(report.lengths) if report.lengths else [],
        }
        del data["lengths"]
        files.append(data)
    return {"schema": 1, "fit": not any(report.errors for report in reports), "files": files}


def as_json(reports: list[FileReport], verdict: str | None = None) -> str:
    """The reports as JSON text. `verdict` is the line about what a verdict will ask."""
    return json.dumps(as_data(reports) | {"verdict": verdict}, ensure_ascii=False, indent=2)


def as_html(reports: list[FileReport]) -> str:
    """The reports as one HTML page, without scripts or external files."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("report.html.jinja").render(data=as_data(reports))
