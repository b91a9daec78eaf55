"""Displays a Report: a live rich table on a terminal, plain lines elsewhere, JUnit XML for CI; called by cli.py."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, TextIO
from xml.etree import ElementTree

from common.i18n import N_, _
from common.model_kind import named
from common.state import State
from common.xml_text import xml_text
from healthchecks.startup import CheckRow, Report

# Words as well as colours: they must be readable on a screen without colours.
WORDS = {"pass": N_("pass"), "warn": N_("WARN"), "skip": N_("skip"), "fail": N_("FAIL")}
STYLES = {"pass": "green", "warn": "yellow", "skip": "dim", "fail": "bold red"}


def verdict(report: Report) -> str:
    """The last line: the result, and the time it took."""
    if report.level == "off":
        return _("ready: not checked (HEALTH_LEVEL=off)")
    failed = [row.name for row in report.checks if row.status == "fail"]
    warned = [row.name for row in report.checks if row.status == "warn"]
    kind = named(report.model_kind)
    where = _("on {device}").format(device=report.device)
    if kind.is_for_tests:
        where = _("{where}, {weights}").format(where=where, weights=_(kind.title))
    if failed:
        return _("failed: {names} ({seconds:.1f} s, level {level}, {where})").format(
            names=", ".join(failed), seconds=report.seconds, level=report.level, where=where
        )
    notes = _("; warnings: {names}").format(names=", ".join(warned)) if warned else ""
    return _("ready: {count} checks in {seconds:.1f} s, level {level}, {where}{notes}").format(
        count=len(report.checks), seconds=report.seconds, level=report.level, where=where, notes=notes
    )


def line(row: CheckRow) -> str:
    """One check as plain text; a failure or warning with its cause and remedy below."""
    text = f"{_(WORDS[row.status])}  {row.name:<12} {row.seconds:6.2f} s  {row.figure}".rstrip()
    if row.cause:
        text += "\n      " + _("cause:  {cause}").format(cause=row.cause)
    if row.remedy:
        text += "\n      " + _("remedy: {remedy}").format(remedy=row.remedy)
    return text


def is_verbose() -> bool:
    """Whether HEALTH_VERBOSE asks for every check where one line would be enough."""
    return os.environ.get("HEALTH_VERBOSE", "").lower() not in ("", "0", "no", "false", "off")


def is_worth_a_line(row: CheckRow, brief: bool) -> bool:
    """Whether a check is shown: in brief mode, only if it failed or warns."""
    return not brief or row.status in ("fail", "warn")


class Plain(contextlib.AbstractContextManager):
    """Prints a line when a check is done; for logs, pipes and CI. In brief mode: only problems, then the verdict."""

    def __init__(self, stream: TextIO, brief: bool = False) -> None:
        self.stream, self.brief, self.shown = stream, brief, 0

    def __exit__(self, *error: object) -> None:
        """Does nothing: a line is complete once it is printed."""

    def update(self, report: Report) -> None:
        """Print what is new in the report, and the verdict once it is complete."""
        for row in report.checks[self.shown :]:
            if is_worth_a_line(row, self.brief):
                print(line(row), file=self.stream, flush=True)
        self.shown = len(report.checks)
        if report.state != State.STARTING:
            print(verdict(report), file=self.stream, flush=True)

    def progress(self, label: str, done: int, total: int) -> None:
        """Does nothing: a log gets no progress bar."""


class Table:
    """A rich table that fills while the checks run, with a progress bar below the check that reads 15 GB.

    In brief mode it is one line that names the current check; problems and the verdict remain.
    """

    def __init__(self, stream: TextIO, brief: bool = False) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        # rich itself honours NO_COLOR; folding keeps a narrow table readable.
        self.console = Console(file=stream, highlight=False)
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=self.console
        )
        self.tasks: dict[str, Any] = {}
        self.report: Report | None = None
        self.brief = brief
        self.live = Live(get_renderable=self._render, console=self.console, refresh_per_second=8, transient=brief)

    def __enter__(self) -> Table:
        self.live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.live.__exit__(*error)
        if self.brief and self.report:
            for row in self.report.checks:
                if is_worth_a_line(row, self.brief):
                    self.console.print(line(row), style=STYLES[row.status], markup=False, soft_wrap=True)
        if self.report and self.report.state != State.STARTING:
            self.console.print(
                verdict(self.report), style=STYLES["fail" if self.report.state == State.FAILED else "pass"]
            )

    def update(self, report: Report) -> None:
        """Show the current state of the report."""
        self.report = report
        for name in list(self.tasks):
            self.bar.remove_task(self.tasks.pop(name))

    def progress(self, label: str, done: int, total: int) -> None:
        """Advance the bar with that label; in bytes."""
        if label not in self.tasks:
            self.tasks[label] = self.bar.add_task(label, total=total)
        self.bar.update(self.tasks[label], completed=done)

    def _render(self) -> Any:
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        if self.brief:
            names = ", ".join(self.report.running) if self.report else ""
            under_way = Text(_("checking: {names}").format(names=names) if names else "", "cyan")
            return Group(under_way, self.bar) if self.tasks else under_way
        table = RichTable(expand=False)
        for title in (_("check"), _("verdict")):
            table.add_column(title, no_wrap=True)
        table.add_column(_("seconds"), justify="right", no_wrap=True)
        table.add_column(_("figure"), overflow="fold")  # a truncated address in a remedy is useless
        if self.report is None:
            return table
        for row in self.report.checks:
            table.add_row(
                row.name,
                Text(_(WORDS[row.status]), STYLES[row.status]),
                f"{row.seconds:.2f}",
                Text(row.figure or row.cause or ""),
            )
            if row.cause and row.figure:
                table.add_row("", "", "", Text(_("cause: {cause}").format(cause=row.cause)))
            if row.remedy:
                table.add_row("", "", "", Text(_("remedy: {remedy}").format(remedy=row.remedy), "bold"))
        for name in self.report.running:
            table.add_row(name, Text(_("running"), "cyan"), "", "")
        return Group(table, self.bar) if self.tasks else table


def make(stream: TextIO | None = None, brief: bool = False) -> Plain | Table:
    """The form that suits the stream (stdout): a table on a terminal, plain lines elsewhere.

    `brief` shows only checks that failed or warn, unless HEALTH_VERBOSE asks for all.
    """
    stream = sys.stdout if stream is None else stream
    brief = brief and not is_verbose()
    fancy = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return Table(stream, brief) if fancy else Plain(stream, brief)


def junit(report: Report) -> bytes:
    """The report as JUnit XML: a test case for each check, a failure with cause and remedy, a skip with its reason.

    Characters that XML cannot contain (from a broken file name in a cause) are replaced.
    """
    checks = report.checks
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name="healthcheck",
        tests=str(len(checks)),
        failures=str(sum(check.status == "fail" for check in checks)),
        skipped=str(sum(check.status == "skip" for check in checks)),
        errors="0",
        time=str(report.seconds),
        timestamp=report.started,
    )
    for check in checks:
        case = ElementTree.SubElement(
            suite, "testcase", classname="healthcheck", name=check.name, time=str(check.seconds)
        )
        if check.status == "fail":
            failure = ElementTree.SubElement(case, "failure", type=check.code, message=xml_text(check.cause))
            failure.text = xml_text(f"remedy: {check.remedy}")
        elif check.status == "skip":
            ElementTree.SubElement(case, "skipped", message=xml_text(check.figure))
        else:
            text = check.figure if check.status == "pass" else f"warning: {check.cause}; {check.remedy}"
            ElementTree.SubElement(case, "system-out").text = xml_text(text)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
