"""Prints the end of a verdict: wrong or lost answers, six samples, the thresholds, and four last lines.

Everything else is in report.html and shown by `--all`. A pass takes at most 40 lines of a terminal (LINES).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common import host, i18n
from finetune.verify.figures import sentence
from finetune.verify.report import first_screen
from finetune.verify.report.files import epochs_view, figure_rows, wanted
from finetune.verify.rules import printable
from finetune.verify.words import Speaker, speaker

LINES = 40
WRONG = {"pass": 6, "fail": 20}  # the most wrong or lost answers on the screen, by verdict
SAMPLES = 6
WIDTH = 120  # columns if the output is a file
# The sets from which samples are taken in turn: first what was learned, then what should not have changed.
ORDER = ("heldout", "reworded", "unseen", "learned", "general", "trained", "out_of_scope", "near_miss", "alpaca")


def show(report: dict[str, Any], folder: Path, console: Console, answers: bool = True) -> None:
    """Print the end of a verdict.

    Args:
        report: The report.
        folder: The folder of its files.
        console: Where to print.
        answers: Whether to print wrong answers and samples.
    """
    say = speaker(i18n.language())  # the language of the screen, which can differ from that of the reports
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    if answers:
        wrong = wrong_or_lost(report)
        _wrong(wrong, report, say, console)
        _samples(samples(report), say, console)
    _thresholds(report, say, console)
    if report["model"]["mark"]:  # the same words as on other screens
        mark = say(report["model"]["mark"])
        _say(console, Text(f"{mark} ({report['model']['path']})", style="yellow"))
    for note in report["notes"]:
        print_line(console, Text(host.shown(printable(say("note: {note}", note=note))), style="yellow"))
    if "learned_min" in report["thresholds"]:  # not if the data are only about identity
        for sentence in first_screen.summary(report, say)["learned"]:
            _say(console, Text(sentence))
    if (epochs := epochs_view(report, say)) is not None:
        _say(console, Text(epochs["why"]))
    if report["compare"]:
        _verdict(report, host.shown(report["adapter"]), say, console)
        _verdict(report["compare"], host.shown(report["compare"]["adapter"]), say, console)
    else:
        _verdict(report, first_screen.meaning(report, say), say, console)
    if report["advice"]:
        _say(console, Text(say("what to change: {advice}", advice=report["advice"]), style="bold"))
    _last_lines(report, folder, say, console)


def wrong_or_lost(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The wrong answers after the training, one per row of the data, and the general tasks that were lost.

    Each is {question, answer, lost}. A general task that the base could not do either is not among them.
    """
    found = []
    for question in report["questions"]:
        for asked in question["asked"]:
            before, after = (asked["answers"].get(side) or {} for side in ("before", "after"))
            if question["part"] == "general" and before.get("ok") and after.get("ok") is False:
                found.append({"question": question, "answer": after, "lost": True})
                break
    worst = first_screen.worst(report["questions"], len(report["questions"]))
    return found + [each | {"lost": False} for each in worst]


def samples(report: dict[str, Any]) -> list[dict[str, Any]]:
    """SAMPLES questions with right answers, taken from each set in turn."""
    groups: dict[str, list[dict[str, Any]]] = {part: [] for part in ORDER}
    for question in report["questions"]:
        answer = question["asked"][0]["answers"].get("after") or {}
        if answer.get("ok") and question["part"] in groups:
            groups[question["part"]].append(question)
    turns = (group[turn] for turn in range(SAMPLES) for group in groups.values() if turn < len(group))
    chosen: dict[str, dict[str, Any]] = {}
    for question in turns:
        if len(chosen) < SAMPLES:
            chosen.setdefault(question["messages"][-1]["content"], question)
    return list(chosen.values())


def next_steps(adapter: str, question: str) -> Iterator[str]:
    """The commands to use a good adapter with: as make targets, or as scripts.

    Args:
        adapter: The adapter's path, or "newest".
        question: A question to try.
    """
    if host.via_make():
        asked = f"ADAPTER=newest Q={shlex.quote(question)}"
        where = "".join(f" {each}" for each in host.other_output())
        yield from (f"make chat{where}", f"make infer{where} {asked}", f"make merge{where}", f"make serve{where}")
        return
    yield host.call("infer", adapter=adapter)
    yield f"{host.call('infer', adapter=adapter)} {shlex.quote(question)}"
    yield from (host.call("merge", adapter=adapter), host.call("serve", adapter=adapter))


def _last_lines(report: dict[str, Any], folder: Path, say: Speaker, console: Console) -> None:
    lines = [(say("adapter"), host.shown(report["adapter"])), (say("report"), host.shown(folder / "report.html"))]
    if report["verdict"] == "pass":
        first = next(iter(samples(report)), None)
        question = _one_line(first["messages"][-1]["content"]) if first else "你是谁?"
        # "newest" is this adapter: it has just been trained, or no adapter was named
        steps = next_steps("newest" if not report["compare"] else host.shown(report["adapter"]), question)
        lines.append((say("next"), " · ".join(steps)))
    widest = max(cell_len(name) for name, _value in lines)  # in columns, of which a Chinese character takes two
    for name, value in lines:
        print_line(console, Text(name + " " * (widest + 2 - cell_len(name)), style="bold") + Text(printable(value)))


def _verdict(part: dict[str, Any], said: str, say: Speaker, console: Console) -> None:
    good = part["verdict"] == "pass"
    _say(console, Text("PASS" if good else "FAIL", style="bold green" if good else "bold red") + f"  {said}")
    for check in part["thresholds"].values():
        if not check["ok"]:
            print_line(console, Text(f"  {say('fell short: {check}', check=sentence(check))}", style="red"))


def _wrong(wrong: list[dict[str, Any]], report: dict[str, Any], say: Speaker, console: Console) -> None:
    if not wrong:
        print_line(console, Text(say("No answer is wrong, and none was lost."), style="green"))
        return
    limit = WRONG[report["verdict"]]
    head = say("Wrong or lost after the training: {count}", count=len(wrong))
    if len(wrong) > limit:
        head += say("; the {count} worst, the report has all", count=limit)
    print_line(console, Text(head, style="bold"))
    for each in wrong[:limit]:
        why = say("lost: it was right before") if each["lost"] else first_screen.reason(each["answer"], say)
        asked = _one_line(each["question"]["messages"][-1]["content"])
        said = _one_line(each["answer"]["text"]) or say("(empty)")
        line = Text("  ✗ ", style="red") + Text(printable(f"{asked} → {said}  ({why})"))
        line.truncate(console.width, overflow="ellipsis")
        print_line(console, line)


def _samples(chosen: list[dict[str, Any]], say: Speaker, console: Console) -> None:
    if not chosen:
        return
    table = Table(box=None, pad_edge=False, expand=True, header_style="bold")
    for title, ratio in ((say("Sample"), 2), (say("Before"), 3), (say("After"), 3)):
        table.add_column(title, ratio=ratio, no_wrap=True, overflow="ellipsis")
    for question in chosen:
        answers = question["asked"][0]["answers"]
        cells = [question["messages"][-1]["content"], *(answers[side]["text"] for side in ("before", "after"))]
        table.add_row(*(Text(printable(_one_line(cell))) for cell in cells))
    console.print(table)


def _thresholds(report: dict[str, Any], say: Speaker, console: Console) -> None:
    """Print each threshold with its figure."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(say("Threshold"))
    for title in (say("Before"), say("After"), say("Demanded")):
        table.add_column(title, justify="right", no_wrap=True)
    rows = {row["name"]: row for row in figure_rows(report)}
    for check in report["thresholds"].values():
        name = check["figure"]
        row = rows.get(name) or rows[name.removesuffix("_after")]
        cells = [cell["shown"] for cell in row["cells"][:2]]
        demanded = f"{wanted(check)} {'✓' if check['ok'] else '✗'}"
        table.add_row(
            say(row["label"]), *cells, *[""] * (2 - len(cells)), Text(demanded, "green" if check["ok"] else "red")
        )
    console.print(table)


def _one_line(text: Any) -> str:
    return " ".join(str(text).split())


def print_line(console: Console, text: Text) -> None:
    """Print a line that may contain a path. It is not wrapped, so a path can be copied."""
    console.print(text, soft_wrap=True, highlight=False)


def _say(console: Console, text: Text) -> None:
    """Print a sentence, wrapped between words on a terminal. Chinese is left to the terminal, which wraps it well."""
    console.print(text, soft_wrap=not console.is_terminal or i18n.language() == "zh", highlight=False)
