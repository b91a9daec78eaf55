"""The verdict on the terminal: answers, figures, and the verdict last; tables there, plain lines elsewhere."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from finetune.verify.report import plain
from finetune.verify.report.files import SIDE_TITLES, epochs_view, say_check, segments, view
from finetune.verify.rules import printable
from finetune.verify.words import speaker

STYLES = {"expected": "bold green", "old": "bold red", "forbidden": "bold red", "denied": "dim", "": ""}
LONGEST = 160  # characters of an answer in the table; report.html has them whole


def show(report: dict[str, Any], console: Console, summary: bool = False) -> None:
    """Print everything a person wants to see; summary leaves the answers out."""
    views = view(report)
    if not summary:
        for group in views["groups"]:
            (_table if console.is_terminal else _lines)(group, views["sides"], console)
    (_figure_table if console.is_terminal else _figure_lines)(views, console)
    show_verdict(report, console)


def show_verdict(report: dict[str, Any], console: Console) -> None:
    """The last lines: pass or fail, and which thresholds decided."""
    if report["model"]["mark"]:  # in the words of every other screen
        _print(console, Text(f"{report['model']['mark']} ({report['model']['path']})", style="yellow"))
    say = speaker(report["language"])
    for note in report["notes"]:
        _print(console, Text(printable(say("note: {note}", note=note)), style="yellow"))
    _plain(report, console)
    if (epochs := epochs_view(report, say)) is not None:
        _print(console, Text(epochs["why"]))
    other = report["compare"]
    for name, part in ((report["adapter"], report), *(((other["adapter"], other),) if other else ())):
        good = part["verdict"] == "pass"
        head = Text("PASS" if good else "FAIL", style="bold green" if good else "bold red")
        _print(console, head + Text(f"  {name}", style=""))
        for check in part["thresholds"].values():
            if not check["ok"]:
                sentence = say_check(check, say)
                _print(console, Text(f"  {say('fell short: {check}', check=sentence)}", style="red"))
    if report["advice"]:
        _print(console, Text(say("what to change: {advice}", advice=report["advice"]), style="bold"))


def _plain(report: dict[str, Any], console: Console) -> None:
    """What was learned, and the worst answers, in the report's language; not where the data are an identity alone."""
    if "learned_min" not in report["thresholds"]:
        return
    say = speaker(report["language"])
    told = plain.summary(report, say)
    for sentence in told["learned"]:
        _print(console, Text(sentence))
    for each in told["worst"]:
        _print(console, Text(printable(f"  ✗ {each['asked']} -> {each['said']} ({each['why']})")))


def _print(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=True)


def _table(group: dict[str, Any], sides: list[str], console: Console) -> None:
    table = Table(title=group["title"], title_justify="left", title_style="bold", box=SIMPLE_HEAD, expand=True)
    table.add_column("Question", ratio=2)
    for side in sides:
        table.add_column(SIDE_TITLES[side], ratio=3)
    for question in group["questions"]:
        first = question["asked"][0]
        cells = [_answer(first["answers"][side]) for side in sides if side in first["answers"]]
        table.add_row(Text(printable(question["messages"][-1]["content"])[:LONGEST]), *cells)
        for other in question["others"]:
            cells = [
                _answer(other["asked"][0]["answers"][side]) for side in sides if side in other["asked"][0]["answers"]
            ]
            table.add_row(Text(f"  {printable(other['messages'][-1]['content'])}"[:LONGEST]), *cells)
    console.print(table)


def _answer(answer: dict[str, Any]) -> Text:
    """A mark for right or wrong, then the answer with its deciding words coloured, cut to LONGEST."""
    sign = {True: ("✓ ", "green"), False: ("✗ ", "red"), None: ("  ", "")}[answer["ok"]]
    text = Text()
    for piece, kind in segments(answer):
        text.append(printable(piece), STYLES[kind])
    if len(text) > LONGEST:
        text.truncate(LONGEST, overflow="ellipsis")
    return Text(*sign) + (text if len(text) else Text("(empty)", style="dim"))


def _lines(group: dict[str, Any], sides: list[str], console: Console) -> None:
    _print(console, Text(f"== {group['title']}"))
    for question in (each for row in group["questions"] for each in (row, *row["others"])):
        _print(console, Text(f"{question['id']}: {printable(question['messages'][-1]['content'])}"))
        for side in sides:
            if side not in question["asked"][0]["answers"]:
                continue
            answer = question["asked"][0]["answers"][side]
            word = {True: "right", False: "wrong", None: "-"}[answer["ok"]]
            _print(console, Text(f"  {side:6} {word:5} {printable(answer['text'])[:LONGEST]}"))


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
    _print(console, Text("== Figures (with 95 % intervals)"))
    for row in views["rows"]:
        cells = [
            f"{side} {cell['shown']} ({cell['interval']})"
            for side, cell in zip(views["sides"], row["cells"], strict=False)
            if cell["shown"]
        ]
        check = _check_of(row, views)
        demanded = f"; demanded {check['wanted']}: {'met' if check['ok'] else 'not met'}" if check else ""
        _print(console, Text(f"{row['label']}: {', '.join(cells)}; n={row['n']}{demanded}"))
