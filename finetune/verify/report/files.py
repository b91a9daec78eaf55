"""Writes report.json, report.md, report.html and junit.xml into the run's verify/ folder; the command calls it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import host, text_files
from finetune.verify import words
from finetune.verify.epochs import choice
from finetune.verify.figures import is_share, label, sentence, shown
from finetune.verify.report import first_screen, junit, lossplot

TEMPLATES = Path(__file__).with_name("templates")
SIDES = ("before", "after", "other")
SIDE_TITLES = {"before": "Before", "after": "After", "other": "Compared"}


def write(report: dict[str, Any], folder: Path) -> None:
    """Write all four files, each by rename: a reader never finds an incomplete one."""
    views = view(report)
    text_files.replace(folder / "report.json", [json.dumps(report, ensure_ascii=False, indent=1), "\n"])
    text_files.replace(folder / "report.md", [render("report.md.j2", views)])
    text_files.replace(folder / "report.html", [render("report.html.j2", views)])
    part = folder / "junit.xml.part"
    junit.write(report, part)
    os.replace(part, folder / "junit.xml")


def render(name: str, context: dict[str, Any]) -> str:
    """Fill in a template. HTML is escaped automatically, Markdown by the filter `md`."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["md"] = escape_markdown
    environment.filters["host"] = host.shown
    environment.filters["run_name"] = run_name
    environment.filters["segments"] = segments
    environment.filters["sentence"] = lambda check: context["say"](sentence(check))
    return environment.get_template(name).render(**context)


def run_name(adapter: str) -> str:
    """An adapter as a browser's tab has room for: `run-20261126-104038`, or the last part of another path."""
    path = Path(adapter)
    return path.parent.name if path.name.startswith("checkpoint-") and path.parent.name else path.name


def escape_markdown(text: str) -> str:
    """A text for a cell of a Markdown table: on one line, without markup."""
    text = " ".join(text.split())
    for char in "\\`*_[]<>|#~":
        text = text.replace(char, "\\" + char)
    return text


def segments(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """An answer's text cut at its marks: (text, kind of the mark, or "" outside of marks)."""
    cut: list[tuple[str, str]] = []
    at = 0
    for mark in answer["marks"]:
        cut += [(answer["text"][at : mark["start"]], ""), (answer["text"][mark["start"] : mark["end"]], mark["kind"])]
        at = mark["end"]
    cut.append((answer["text"][at:], ""))
    return [piece for piece in cut if piece[0]]


TITLES = {
    "heldout": "Held-out identity questions",
    "trained": "Trained questions",
    "learned": "The data, row by row",
    "unseen": "Rows it had not seen",
    "out_of_scope": "Out of scope: no row answers these",
    "near_miss": "Near misses: like the data's questions, but no row answers these",
    "general": "General tasks",
    "alpaca": "Alpaca rows",
}


def view(report: dict[str, Any]) -> dict[str, Any]:
    """The data of the templates: the report, its figures as rows, its questions in groups, the loss curve."""
    say = words.speaker(report["language"])
    others: dict[int, list[dict[str, Any]]] = {}
    for question in report["questions"]:
        if question["part"] == "reworded":
            others.setdefault(question["row"], []).append(_question(question, ()))
    groups = []
    for part, title in TITLES.items():
        chosen = [question for question in report["questions"] if question["part"] == part]
        if chosen:
            of_rows = {} if part == "near_miss" else others
            shown_ = [_question(question, of_rows.get(question["row"] or 0, ())) for question in chosen]
            groups.append({"part": part, "title": title, "questions": shown_})
    return {
        "report": report,
        "say": say,
        "titles": SIDE_TITLES,
        "reason": lambda answer: first_screen.reason(answer, say),
        "meaning": first_screen.meaning(report, say),
        "plain": first_screen.summary(report, say),
        "notes": [say(note) for note in report["notes"]],
        "rows": figure_rows(report),
        "checks": check_rows(report),
        "groups": groups,
        "sides": [side for side in SIDES if any(side in a["answers"] for q in report["questions"] for a in q["asked"])],
        "plot": lossplot.plot(report["run"]["losses"], report["run"]["held_out_losses"]),
        "epochs": epochs_view(report, say),
    }


def epochs_view(report: dict[str, Any], say: words.Speaker) -> dict[str, Any] | None:
    """How the number of epochs was chosen: the reason, and a row per epoch; None if it was not chosen."""
    chosen = report["run"]["epochs"]
    if chosen is None:
        return None
    rows = [
        {
            "epoch": point["epoch"],
            "right": say("{count} of {all}", count=point["right"], all=chosen["questions"]),
            "general": say("{count} of {all}", count=point["general"], all=chosen["general"]),
            "chosen": point["epoch"] == chosen["chosen"],
        }
        for point in chosen["curve"]
    ]
    before = say("{count} of {all}", count=chosen["general_before"], all=chosen["general"])
    return {"why": say(choice.sentence(chosen)), "rows": rows, "before": say("{before} before", before=before)}


def _question(question: dict[str, Any], others: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A question with its state after the training (right, wrong, or open if nothing decides it), and its rewordings.

    `fell` is set if it was right before the training only. A wrong rewording makes the whole question wrong.
    """
    before = [asked["answers"]["before"]["ok"] for asked in question["asked"]]
    after = [asked["answers"]["after"]["ok"] for asked in question["asked"]]
    state = "open" if None in after else "right" if all(after) else "wrong"
    if state == "right" and any(other["state"] == "wrong" for other in others):
        state = "wrong"
    fell = any(was and not now for was, now in zip(before, after, strict=True) if now is not None)
    return question | {"state": state, "fell": fell or any(other["fell"] for other in others), "others": list(others)}


def check_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the table of thresholds, those that fell short first."""
    say = words.speaker(report["language"])
    rows = []
    for check in report["thresholds"].values():
        name = check["figure"]
        shown_ = {"label": label(name), "wanted": wanted(check), "shown": shown(name, check["value"])}
        rows.append(check | shown_ | {"interval": interval(name, report["figures"][name], say)})
    return sorted(rows, key=lambda row: row["ok"])


def wanted(check: dict[str, Any]) -> str:
    """The limit of a threshold as text: `≥ 90.0 %`."""
    return f"{'≥' if check['bound'] == 'min' else '≤'} {shown(check['figure'], check['limit'])}"


def figure_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the table of figures: before and after side by side. `bar` is the interval of a share in per cent."""
    say = words.speaker(report["language"])
    found, rows = report["figures"], []
    other = (report["compare"] or {}).get("figures", {})
    for name in dict.fromkeys(key.removesuffix("_before") for key in found if key.endswith("_before")):
        cells: list[dict[str, Any]] = []
        for side, figures in (("before", found), ("after", found), ("after", other)):
            if figure := figures.get(f"{name}_{side}"):
                cell = _cell(name, figure, say)
                if is_share(name):
                    cell["bar"] = {key: round(100 * figure[key], 1) for key in ("value", "low", "high")}
                cells.append(cell)
        rows.append({"name": name, "label": label(name), "n": found[f"{name}_before"]["n"], "cells": cells})
        if f"{name}_drop" in found:
            rows.append(_single(f"{name}_drop", found, other, say))
        if name == "rules":
            rows.append(_single("rules_lost", found, other, say))
    rows += [
        _single(name, found, other, say)
        for name in ("general_lost", "unseen_over_majority", "length_ratio")
        if name in found
    ]
    return rows


def _single(name: str, found: dict[str, Any], other: dict[str, Any], say: words.Speaker) -> dict[str, Any]:
    """A row for a figure that has no value before the training: its cell is below `after`."""
    cells = [_cell(name, figures[name], say) for figures in (found, other) if name in figures]
    empty = {"shown": "", "interval": "", "bar": None}
    return {"name": name, "label": label(name), "n": found[name]["n"], "cells": [empty, *cells]}


def _cell(name: str, figure: dict[str, Any], say: words.Speaker) -> dict[str, Any]:
    return {"shown": shown(name, figure["value"]), "interval": interval(name, figure, say), "bar": None}


def interval(name: str, figure: dict[str, Any], say: words.Speaker) -> str:
    """The 95 % interval as text: `88.6-98.3 %` or `-0.21 to 1.03`."""
    if is_share(name):
        return f"{100 * figure['low']:.1f}-{100 * figure['high']:.1f} %"
    return say("{low} to {high}", low=shown(name, figure["low"]), high=shown(name, figure["high"]))
