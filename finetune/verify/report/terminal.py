"""Prints all answers and figures for `--all`, as tables on a terminal, as lines elsewhere; ending.py has the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from finetune.verify.report import ending
from finetune.verify.report.files import SIDE_TITLES, segments, view
from finetune.verify.rules import printable

STYLES = {"expected": "bold green", "old": "bold red", "forbidden": "bold red", "denied": "dim", "": ""}
LONGEST = 160  # characters of an answer in the table; report.html has the whole answer


def show(report: dict[str, Any], folder: Path, console: Console, every: bool = False, summary: bool = False) -> None:
    """Print a verdict.

    Args:
        report: The report.
        folder: The folder of its files.
        console: Where to print.
        every: Print all answers and figures before the end.
        summary: Print the figures before the end, and no answers.
    """
    if every or summary:
        views = view(report)
        for group in views["groups"] if every else ():
            (_table if console.is_terminal else _lines)(group, views["sides"], console)
        (_figure_table if console.is_terminal else _figure_lines)(views, console)
    ending.show(report, folder, console, answers=not (every or summary))


def _table(group: dict[str, Any], sides: list[str], console: Console) -> None:
    table = Table(title=group["title"], title_justify="left", title_style="bold", box=SIMPLE_HEAD, expand=True)
    table.add_column("Question", ratio=2)
    for side in sides:
        table.add_column(SIDE_TITLES[side], ratio=3)
    for row in group["questions"]:
        for question in (row, *row["others"]):
            answers = question["asked"][0]["answers"]
            asked = ("" if question is row else "  ") + printable(question["messages"][-1]["content"])
            table.add_row(Text(asked[:LONGEST]), *(_answer(answers[side]) for side in sides if side in answers))
    console.print(table)


def _answer(answer: dict[str, Any]) -> Text:
    """A mark for right or wrong, and the answer with its deciding words coloured, cut to LONGEST characters."""
    sign = {True: ("✓ ", "green"), False: ("✗ ", "red"), None: ("  ", "")}[answer["ok"]]
    text = Text()
    for piece, kind in segments(answer):
        text.append(printable(piece), STYLES[kind])
    if len(text) > LONGEST:
        text.truncate(LONGEST, overflow="ellipsis")
    return Text(*sign) + (text if len(text) else Text("(empty)", style="dim"))


def _lines(group: dict[str, Any], sides: list[str], console: Console) -> None:
    ending.print_line(console, Text(f"== {group['title']}"))
    for question in (each for row in group["questions"] for each in (row, *row["others"])):
        ending.print_line(console, Text(f"{question['id']}: {printable(question['messages'][-1]['content'])}"))
        for side in sides:
            if answer := question["asked"][0]["answers"].get(side):
                word = {True: "right", False: "wrong", None: "-"}[answer["ok"]]
                ending.print_line(console, Text(f"  {side:6} {word:5} {printable(answer['text'])[:LONGEST]}"))


def _figure_table(views: dict[str, Any], console: Console) -> None:
    table = Table(title="Figures (with 95 % intervals)", title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("")
    for side in views["sides"]:
        table.add_column(SIDE_TITLES[side], justify="right")
    table.add_column("n", justify="right")
    table.add_column("Demanded", justify="right")
    for row in views["rows"]:
        cells = [f"{cell['shown']} ({cell['interval']})" if cell["shown"] else "" for cell in row["cells"]]
        cells += [""] * (len(views["sides"]) - len(cells))
        check = _check_of(row, views)
        demanded = (
            Text(f"{check['wanted']} {'✓' if check['ok'] else '✗'}", "green" if check["ok"] else "red")
            if check
            else Text("")
        )
        table.add_row(row["label"], *cells, str(row["n"]), demanded)
    console.print(table)


def _check_of(row: dict[str, Any], views: dict[str, Any]) -> dict[str, Any] | None:
    names = (row["name"], f"{row['name']}_after")
    return next((check for check in views["checks"] if check["figure"] in names), None)


def _figure_lines(views: dict[str, Any], console: Console) -> None:
    ending.print_line(console, Text("== Figures (with 95 % intervals)"))
    for row in views["rows"]:
        cells = [
            f"{side} {cell['shown']} ({cell['interval']})"
            for side, cell in zip(views["sides"], row["cells"], strict=False)
            if cell["shown"]
        ]
        check = _check_of(row, views)
        demanded = f"; demanded {check['wanted']}: {'met' if check['ok'] else 'not met'}" if check else ""
        ending.print_line(console, Text(f"{row['label']}: {', '.join(cells)}; n={row['n']}{demanded}"))
